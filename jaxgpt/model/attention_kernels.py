"""Causal attention by the kernels that GPUs and TPUs have for it, and when one can be used.

They never write the T by T weights to memory (Dao et al. 2022, "FlashAttention"). All else is
`attend_causally`: CPUs, float32, dropout, and shapes that the kernels do not take.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from jaxgpt.errors import ConfigError
from jaxgpt.fields import typed
from jaxgpt.model.layers import LINEAR, Rate, never_drops
from jaxgpt.model.layout import TENSOR, row_axes, tensor_devices

Attention = Literal["auto", "chunked", "cudnn", "splash"]
"""How to compute attention: `chunked` is `attend_causally`, `auto` the fastest that is possible."""

Kernel = Literal["cudnn", "splash"]

_FORWARD_KERNELS = {"dot_product_attention_fwd_wrapper", "pallas_call", "ragged_dot_general"}
_BLOCKS = (512, 256, 128)  # tokens that splash takes at once, which must divide T


class Device(NamedTuple):
    """What the choice depends on beside the arrays."""

    platform: str
    """cpu, cuda, tpu, or another, for which there is no kernel."""
    compute_capability: float = 0.0
    """Of an NVIDIA GPU: 8.0 is Ampere, 9.0 Hopper."""
    count: int = 1
    """How many of them the program runs on."""
    mesh_size: int = 0
    """How many of them `jax.set_mesh` names; 0 where it was not called."""
    tensor: int = 1
    """How many of them share the heads of a row."""


def this_device() -> Device:
    """The devices that JAX takes by default."""
    device, mesh = jax.devices()[0], jax.sharding.get_abstract_mesh()
    count, mesh_size = jax.device_count(), 0 if mesh.empty else mesh.size
    if "cuda" in device.client.platform_version:  # the platform of AMD's is gpu too
        capability = float(device.compute_capability)
        return Device("cuda", capability, count, mesh_size, tensor_devices())
    return Device(device.platform, 0.0, count, mesh_size, tensor_devices())


def choose_attention(
    asked: Attention,
    shape: tuple[int, ...],
    dtype: Any,
    *,
    dropout_rate: Rate = 0.0,
    packed: bool = False,
    sinks: bool = False,
    device: Device | None = None,
) -> Literal["chunked"] | Kernel:
    """What computes attention for queries of `shape` (B, H, T, K) on `device`, or on this one.

    Raises ConfigError if a kernel is asked for that cannot.
    """
    typed("attention", asked, Attention)
    if asked == "chunked":
        return asked
    device = device or this_device()
    given = shape, str(dtype), dropout_rate, packed, sinks, device
    needs = {name: _need(name, *given) for name in KERNELS}
    if asked == "auto":
        possible: list[Kernel] = [name for name in KERNELS if needs[name] is None]
        return possible[0] if possible else "chunked"
    if needs[asked] is not None:
        raise ConfigError(f"attention {asked} needs {needs[asked]}; take auto or chunked")
    return asked


def _need(
    kernel: Kernel,
    shape: tuple[int, ...],
    dtype: str,
    dropout_rate: Rate,
    packed: bool,
    sinks: bool,
    device: Device,
) -> str | None:
    """The first thing that `kernel` needs and does not get, or None."""
    rows, _, length, width = shape
    alone, sharing = device.count == 1, device.count // device.tensor
    shared = alone or (device.mesh_size == device.count and rows % sharing == 0)
    needs = {
        "cudnn": [
            (device.platform == "cuda", f"an NVIDIA GPU, not {device.platform}"),
            (
                device.compute_capability >= 8,
                f"compute capability 8.0 or more, not {device.compute_capability}",
            ),
            (dtype in ("bfloat16", "float16"), f"bfloat16, not {dtype}"),
            (
                width % 8 == 0 and width <= 128,
                f"a head width that is a multiple of 8 up to 128, not {width}",
            ),
        ],
        "splash": [
            (device.platform == "tpu", f"a TPU, not {device.platform}"),
            (dtype == "bfloat16", f"bfloat16, not {dtype}"),
            (length % _BLOCKS[-1] == 0, f"a multiple of {_BLOCKS[-1]} tokens, not {length}"),
            (width % 64 == 0, f"a head width that is a multiple of 64, not {width}"),
            (shared, f"a mesh of all {device.count} devices that divides the {rows} rows"),
        ],
    }[kernel]
    needs.append((never_drops(dropout_rate), f"dropout 0, not {dropout_rate}"))
    needs.append((not sinks, "softmax over keys alone, without sinks"))
    needs.append((not packed, "one text a row, not several packed into one"))
    return next((need for met, need in needs if not met), None)


def attend_cudnn(
    queries: Float[Array, "B H T K"],
    keys: Float[Array, "B G T K"],
    values: Float[Array, "B G T K"],
    *,
    scale: float = 0.0,
    window: int = 0,
) -> Float[Array, "B H T K"]:
    """Causal attention by cuDNN, for NVIDIA GPUs; arguments as of `attend_causally`."""
    by_token = (x.swapaxes(1, 2) for x in (queries, keys, values))
    bounds: Any = {"local_window_size": (window - 1, 0)} if window else {}
    bounds |= {"scale": scale} if scale else {}
    contexts = jax.nn.dot_product_attention(
        *by_token, is_causal=True, implementation="cudnn", **bounds
    )
    return contexts.swapaxes(1, 2)


def attend_splash(
    queries: Float[Array, "B H T K"],
    keys: Float[Array, "B G T K"],
    values: Float[Array, "B G T K"],
    *,
    scale: float = 0.0,
    window: int = 0,
    interpret: bool = False,
) -> Float[Array, "B H T K"]:
    """Causal attention by the splash kernel, for TPUs; `interpret` runs it anywhere, slowly.

    XLA cannot divide the kernel among devices. If `jax.set_mesh` names a mesh, each device takes
    an equal share of the rows, and of the heads across its axis `tensor`.
    """
    # Here, not above: only a TPU has use for Pallas, which takes a while to import.
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        BlockSizes,
        CausalMask,
        LocalMask,
        MultiHeadMask,
        make_splash_mha_single_device,
    )

    length, width = queries.shape[2:]
    block = next(block for block in _BLOCKS if length % block == 0)
    phases = ("", "_dkv", "_dq")
    blocks: Any = {f"block_{side}{phase}": block for side in ("q", "kv") for phase in phases}

    def attend(queries: Array, keys: Array, values: Array) -> Array:
        square = (length, length)
        one = LocalMask(square, (window - 1, 0), 0) if window else CausalMask(square)
        mask = MultiHeadMask([one] * queries.shape[1])
        sizes = BlockSizes(**blocks)
        kernel: Any = make_splash_mha_single_device(mask, block_sizes=sizes, interpret=interpret)
        scaled = queries * scale if scale else queries / math.sqrt(width)
        return jax.vmap(kernel)(scaled, keys, values)

    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        heads = TENSOR if TENSOR in mesh.axis_names else None
        each = PartitionSpec(row_axes(mesh), heads)
        attend = jax.shard_map(attend, in_specs=each, out_specs=each, check_vma=False)
    return attend(queries, keys, values)


KERNELS: dict[Kernel, Callable[..., Array]] = {"cudnn": attend_cudnn, "splash": attend_splash}
"""Name -> the function of queries, keys and values."""


def keep_products_and_kernels(primitive: Any, *args: Any, **params: Any) -> bool:
    """A policy of `jax.checkpoint`: keep what linear layers and attention kernels computed.

    A kernel's backward pass starts from its output, which is small and costly; without this the
    kernel would run forward twice.
    """
    if primitive.name == "name":
        return params["name"] == LINEAR
    products = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return primitive.name in _FORWARD_KERNELS or bool(products(primitive, *args, **params))
