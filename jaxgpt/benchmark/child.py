"""A contender in a process of its own: `python -m ...child FOLDER NAME PLATFORM BEGAN`.

FOLDER holds what `children` puts there. Prints one JSON object: seconds since BEGAN (Unix time) at
which the imports and the first step were done, the losses, and the peaks of memory. PyTorch's side
never imports JAX, nor jaxgpt's PyTorch.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from jaxgpt.benchmark.contenders import CONTENDERS, Unavailable, build
from jaxgpt.benchmark.processes import host_peak
from jaxgpt.benchmark.workload import load_start, make_batches
from jaxgpt.config import TrainConfig
from jaxgpt.config_file import from_dict, read_mapping
from jaxgpt.terminal import say

STEPS = 3  # the first two allocate what the third finds there


def main(folder: Path, name: str, platform: str, began: float) -> dict[str, Any]:
    """Import, build, take steps, and say what it took."""
    config = from_dict(TrainConfig(), read_mapping(folder / "config.json"))
    library = CONTENDERS[name].library
    if library == "jaxgpt":
        import jaxgpt.benchmark.jax_trainer
        from jaxgpt.training.mesh import select_platform

        select_platform(platform)
    else:
        import jaxgpt.benchmark.torch_trainer  # noqa: F401
    imported = time.time() - began
    trainer = build(name, config, load_start(folder / "start.npz"), platform)
    first, *rest = make_batches(config, STEPS)
    losses = trainer.run([first])
    first_step = time.time() - began
    return {
        "import_seconds": imported,
        "first_step_seconds": first_step,
        "losses": losses + trainer.run(rest),
        "peak_bytes": host_peak(),
        "device_peak_bytes": None if platform == "cpu" else device_peak(library),
    }


def device_peak(library: str) -> int | None:
    """The most memory of the first device that a library ever had, where it can tell."""
    if library == "torch":
        import torch

        return torch.cuda.max_memory_allocated()
    import jax

    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


if __name__ == "__main__":
    try:
        result = main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]))
    except Unavailable as reason:
        result = {"unavailable": str(reason)}
    say(json.dumps(result))
