"""How long a step takes while the checkpoint before it is written: `saving.py --help`.

A state of GPT-2's 124 million parameters is trained on random tokens and saved several times, and
lines say what a common step takes, the first one behind each save with the copy of the state, the
others until it is whole, and the writing.
"""

import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np

from jaxgpt.benchmark.workload import get_shape, make_tokens
from jaxgpt.data.batches import SlidingWindows
from jaxgpt.model.parameters import parameter_shapes
from jaxgpt.tokenization.tokenizer import load_tokenizer
from jaxgpt.training.background import Background
from jaxgpt.training.checkpoint import save
from jaxgpt.training.compiled_step import make_step
from jaxgpt.training.device_tokens import batch_source
from jaxgpt.training.mesh import make_mesh
from jaxgpt.training.pretrain import initial_state
from jaxgpt.training.run_state import state_template


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="gpt2", help="as of `jaxgpt benchmark`")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6, help="between two saves")
    parser.add_argument("--saves", type=int, default=2)
    parser.add_argument("--folder", help="on the disk that is measured")
    asked = parser.parse_args()
    if asked.folder:
        Path(asked.folder).mkdir(parents=True, exist_ok=True)
    config = get_shape(asked.shape, batch_size=asked.batch_size)
    mesh = make_mesh(config)
    template = state_template(parameter_shapes(config.model), config, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
    state = jax.jit(partial(initial_state, config), out_shardings=shardings)(np.uint32(0))
    windows = SlidingWindows(make_tokens(config, 10**6), config.model.context_length)
    batch = batch_source(windows, config.batch_size, 0, mesh)(0)
    step_fn, tokenizer = make_step(config, mesh), load_tokenizer("bytes")
    number, common, first, others, writing = 0, [], [], [], []

    def write(run: Path, state) -> None:
        began = time.monotonic()
        save(run, state, config, tokenizer, "")
        writing.append(time.monotonic() - began)

    with tempfile.TemporaryDirectory(dir=asked.folder) as place, Background() as background:
        background.prepare(state)
        for turn in range(asked.saves + 1):
            future = None
            for step in range(asked.steps):
                began = time.monotonic()
                if turn and step == 0:
                    future = background(partial(write, Path(place)), state)
                busy = future is not None and not future.done()
                state, metrics = step_fn(state, batch, np.int32(number))
                float(metrics["loss"])
                number += 1
                seconds = time.monotonic() - began
                if number > 2:  # the first compiles
                    (common if not busy else others if step else first).append(seconds)
    usual = statistics.median(common)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    print(
        f"state {size / 1e9:.2f} GB; a common step {usual:.3f} s ({len(common)} steps, "
        f"{min(common) / usual:.2f}x to {max(common) / usual:.2f}x)"
    )
    for name, taken in {"first behind a save": first, "others while it is written": others}.items():
        ratios = [seconds / usual for seconds in taken]
        if ratios:
            middle, mean = statistics.median(ratios), statistics.mean(ratios)
            each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"{name}: median {middle:.2f}x, mean {mean:.2f}x of {each}")
    print(f"writing {', '.join(f'{seconds:.1f}' for seconds in writing)} s")


if __name__ == "__main__":
    main()
