"""Compare the losses of one training in jaxgpt and in PyTorch.

PyTorch runs with one thread, with two, and in float64: what parts the float32 runs is rounding.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jaxgpt.commands import cli
from jaxgpt.commands.progress import Progress
from jaxgpt.config import DataConfig, ModelConfig, TrainConfig
from jaxgpt.data.named_text import local_paths
from jaxgpt.data.sources import read_documents
from jaxgpt.run_config import OptimizerConfig
from jaxgpt.terminal import say

if TYPE_CHECKING:
    from jaxgpt.benchmark.trajectories import Losses, Trajectories

CONFIG = TrainConfig(
    model=ModelConfig(
        vocab_size=256,
        context_length=64,
        num_layers=4,
        num_heads=4,
        embed_dim=128,
        tie_head=False,  # PyTorch's start has unit vectors in the token table: too much for a head
    ),
    data=DataConfig(tokenizer="bytes"),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=20, final_learning_rate=1e-4),
    steps=200,
    batch_size=12,
)
_SHOWN = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class Arguments:
    """The text, and for how long."""

    data: tuple[str, ...]
    """Files, folders or globs of .txt, .jsonl or .parquet, or tinyshakespeare, which is fetched;
    read as bytes."""
    steps: int = CONFIG.steps
    """Optimizer steps of each run, more than the 20 of the warm-up."""
    seed: int = 0
    """Decides the start and the order of the windows."""
    plot: str = ""
    """Where to draw the curves as a .png."""

    def __post_init__(self):
        """Refuse what would fail only after all the work."""
        replace(CONFIG, steps=self.steps, seed=self.seed)
        cli.check_output("--plot", self.plot, ".png")


def main(argv: list[str]) -> None:
    """Train, print the table, draw."""
    usage = "--data FILE [--plot FILE.png]"
    arguments = cli.parse(Arguments, "trajectories", argv, usage, description=__doc__)
    config = replace(CONFIG, steps=arguments.steps, seed=arguments.seed)
    documents = read_documents(local_paths(arguments.data, progress=Progress()))
    text = "".join(document.text for document in documents)

    import numpy as np

    from jaxgpt.benchmark.trajectories import compare_training
    from jaxgpt.training.plots import plot_trajectories

    tokens = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    runs = compare_training(config, tokens)
    say(table(runs))
    if arguments.plot:
        losses = {"PyTorch": runs.torch, "jaxgpt": runs.jaxgpt}
        title = (
            f"A GPT of {CONFIG.model.num_layers} layers, trained for {config.steps} steps in both"
        )
        plot_trajectories(losses, differences(runs), Path(arguments.plot), title)


def differences(runs: "Trajectories") -> "dict[str, Losses]":
    """The differences between runs, by name."""
    return {
        "jaxgpt - PyTorch": runs.jaxgpt - runs.torch,
        "PyTorch, 2 threads - 1": runs.torch_two_threads - runs.torch,
        "jaxgpt - float64": runs.jaxgpt - runs.float64,
        "PyTorch - float64": runs.torch - runs.float64,
    }


def table(runs: "Trajectories") -> str:
    """The losses of some steps, and the differences of the runs, as a Markdown table."""
    apart, last = differences(runs), len(runs.torch)
    lines = [["step", "loss", *apart], ["---"] * (2 + len(apart))]
    for step in sorted({step for step in _SHOWN if step < last} | {last}):
        figures = [f"{values[step - 1]:+.1e}" for values in apart.values()]
        lines.append([str(step), f"{runs.jaxgpt[step - 1]:.6f}", *figures])
    lines.append(["largest", "", *(f"{abs(values).max():.1e}" for values in apart.values())])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
