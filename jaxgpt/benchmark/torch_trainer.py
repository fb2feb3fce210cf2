"""PyTorch's side: the model of `torch_reference` with PyTorch's own fast parts in it."""

from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from jaxgpt.benchmark.contenders import Unavailable
from jaxgpt.benchmark.turns import least_seconds
from jaxgpt.config import ModelConfig, TrainConfig
from jaxgpt.data.batches import Batch
from jaxgpt.parity.torch_reference import (
    GPT,
    Embedding,
    MultiHeadAttention,
    configure_adamw,
    load_params,
    unseen,
)
from jaxgpt.run_config import OptimizerConfig


class FusedAttention(MultiHeadAttention):
    """Attention in one kernel, as who trains in PyTorch would have it."""

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """The context of each token."""
        queries, keys, values = self.split(x)
        seen = ~unseen(x.shape[1], self.window).to(x.device) if self.window else None
        context = functional.scaled_dot_product_attention(
            *(queries, keys, values, seen), is_causal=seen is None, scale=self.scale
        )
        return self.out(context.transpose(1, 2).flatten(-2))


class SlicedEmbedding(Embedding):
    """Positions as a slice of their table, on whichever device that is."""

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """The sum, for each token."""
        if self.positions is None:
            return super().forward(tokens)
        table: Any = self.positions
        return self.tokens(tokens) + table.weight[: tokens.shape[1]]


class TorchTrainer:
    """Trains on the platform that JAX runs on; raises Unavailable where PyTorch has none there."""

    def __init__(
        self,
        config: TrainConfig,
        params: dict[str, Any],
        *,
        dtype: str = "float32",
        compiled: bool = False,
        platform: str = "cpu",
    ):
        self._device, self._dtype = find_device(platform), dtype
        self._clip: Any = config.optimizer.gradient_clip
        self._micro_batches = config.gradient_accumulation
        self._model = fast_model(config.model, params).to(self._device)
        self._optimizer = fused_adamw(self._model, config.optimizer)
        self._loss = torch.compile(self._forward) if compiled else self._forward
        self._compiling = compiled

    def run(self, batches: list[Batch]) -> list[float]:
        """Take a step on each batch, wait for the last, and return the losses."""
        try:
            losses = [self._step(batch) for batch in batches]
        except Exception as error:
            if not self._compiling:
                raise
            # Whatever is missing on this machine, such as a C++ compiler, shows on the first call.
            lines = str(error).strip().splitlines() or [repr(error)]
            raise Unavailable(f"torch.compile fails here: {lines[0]}") from None
        self._compiling = False
        return torch.stack(losses).tolist()

    def _step(self, batch: Batch) -> Tensor:
        inputs, targets = (
            torch.from_numpy(part).to(self._device, torch.long)
            for part in (batch.inputs, batch.targets)
        )
        losses = []
        for part in zip(*(x.chunk(self._micro_batches) for x in (inputs, targets)), strict=True):
            loss = self._loss(*part) / self._micro_batches  # all have as many targets
            loss.backward()
            losses.append(loss.detach())
        if self._clip != "none":
            nn.utils.clip_grad_norm_(self._model.parameters(), self._clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return torch.stack(losses).sum()

    def _forward(self, inputs: Int[Tensor, "B T"], targets: Int[Tensor, "B T"]) -> Tensor:
        narrow = self._dtype != "float32"
        with torch.autocast(self._device, torch.bfloat16) if narrow else nullcontext():
            logits = self._model(inputs)
            return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def find_device(platform: str) -> str:
    """PyTorch's name of a platform of JAX; raises Unavailable if PyTorch cannot compute there."""
    if platform == "cpu":
        return platform
    if platform != "gpu" or not torch.cuda.is_available():
        raise Unavailable(f"this PyTorch cannot compute on a {platform}")
    torch.set_float32_matmul_precision("high")  # TF32, which JAX takes unless told not to
    return "cuda"


def fast_model(config: ModelConfig, params: dict[str, Any]) -> GPT:
    """The reference model with the same parameters, and fused attention."""
    model = GPT(config)
    model.embed = SlicedEmbedding(config)
    for layer, block in enumerate(model.blocks):
        block.attn = FusedAttention(config, layer)
    load_params(model, params)
    return model


def fused_adamw(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """The reference's AdamW in one kernel, where this build of PyTorch has it."""
    plain = configure_adamw(model, config)
    try:
        groups = [group | {"fused": True} for group in plain.param_groups]
        return torch.optim.AdamW(groups, fused=True)
    except RuntimeError:
        return plain


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
