"""Who takes part in training, by name; a library is imported when the first of its own is built."""

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from jaxgpt.config import TrainConfig
from jaxgpt.data.batches import Batch
from jaxgpt.errors import ConfigError
from jaxgpt.shell import install


class Unavailable(Exception):
    """A contender that cannot take part on this machine, and why, in a line."""


@runtime_checkable
class Trainer(Protocol):
    """A model in training."""

    def run(self, batches: list[Batch]) -> list[float]:
        """Take a step on each batch, wait for the last, and return the losses in nats per token."""
        ...


@dataclass(frozen=True)
class Contender:
    """A way to train: by which library, in which precision, compiled or not."""

    label: str
    library: str
    dtype: str
    compiled: bool = False


TORCH_EAGER = "torch"
CONTENDERS: dict[str, Contender] = {
    "jaxgpt": Contender("jaxgpt float32", "jaxgpt", "float32"),
    TORCH_EAGER: Contender("PyTorch eager float32", "torch", "float32"),
    "torch-compile": Contender("PyTorch compiled float32", "torch", "float32", compiled=True),
    "jaxgpt-bf16": Contender("jaxgpt bfloat16", "jaxgpt", "bfloat16"),
    "torch-bf16": Contender("PyTorch autocast bfloat16", "torch", "bfloat16"),
    "torch-compile-bf16": Contender(
        "PyTorch compiled, autocast bfloat16", "torch", "bfloat16", compiled=True
    ),
}


def choose(names: tuple[str, ...] = (), dtype: str = "all") -> list[str]:
    """The names of those asked for, all if none is, that compute in `dtype` (or all).

    Raises ConfigError for an unknown name, or if none remains.
    """
    for name in names:
        if name not in CONTENDERS:
            raise ConfigError(f"no contender is called {name}; there are {', '.join(CONTENDERS)}")
    chosen = [name for name in CONTENDERS if not names or name in names]
    chosen = [name for name in chosen if dtype in ("all", CONTENDERS[name].dtype)]
    if not chosen:
        raise ConfigError(f"no contender of {', '.join(names)} computes in {dtype}")
    return chosen


def build(name: str, config: TrainConfig, params: dict[str, Any], platform: str) -> Trainer:
    """A trainer from `params` on JAX's platform cpu, gpu or tpu; raises Unavailable without one."""
    contender = CONTENDERS[name]
    if contender.library == "jaxgpt":
        from jaxgpt.benchmark.jax_trainer import JaxTrainer

        compute_dtype: Any = contender.dtype
        return JaxTrainer(replace(config, compute_dtype=compute_dtype), params)
    need_torch()
    from jaxgpt.benchmark.torch_trainer import TorchTrainer

    return TorchTrainer(
        config, params, dtype=contender.dtype, compiled=contender.compiled, platform=platform
    )


def need_torch() -> None:
    """Raise Unavailable unless PyTorch can be imported."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "torch"
        why = f"is not installed: {install('torch')}" if missing else f"fails: {error}"
        raise Unavailable(f"PyTorch {why}") from None
