"""The rate of PyTorch's matrix products, beside that of JAX's in `rates`."""

import torch

from jaxgpt.benchmark.rates import least_seconds
from jaxgpt.benchmark.torch_trainer import find_device


def measure_torch_products(size: int, platform: str) -> dict[str, float]:
    """FLOP/s of the product of two matrices of `size` squared, by dtype."""
    device, products = find_device(platform), {}
    for name in ("float32", "bfloat16"):
        matrix = torch.randn(size, size, device=device).to(getattr(torch, name))

        def multiply(matrix: torch.Tensor = matrix) -> None:
            product = matrix @ matrix
            if device != "cpu":
                torch.cuda.synchronize(product.device)

        products[name] = 2 * size**3 / least_seconds(multiply)
    return products
