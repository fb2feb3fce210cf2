"""What PyTorch computed, recorded: activations of a small GPT, and the losses of its training.

`python -m course.recorded` makes `recorded.npz` anew, for which alone PyTorch is needed.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    SlidingWindows,
    TrainConfig,
    init_like_torch,
)
from jaxgpt.data.batches import Batch
from jaxgpt.data.stories import tell_story
from jaxgpt.model.layers import Params
from jaxgpt.parity.recordings.recording import Recording
from jaxgpt.parity.recordings.recording_file import load_recording
from jaxgpt.worked.examples import on_device

FILE = Path(__file__).with_suffix(".npz")
SENTENCE = "Lily and Pip went to the lake."
CONFIG = ModelConfig(
    vocab_size=257, context_length=32, num_layers=3, num_heads=2, embed_dim=16, tie_head=False
)
"""The model: PyTorch draws its parameters after `torch.manual_seed(123)`."""
TRAINING = TrainConfig(
    model=CONFIG,
    data=DataConfig(tokenizer="bytes"),
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=5),
    steps=100,
    batch_size=8,
    seed=123,
)
"""Its training, by AdamW."""


def tokens() -> np.ndarray:
    """The sentence's bytes (1, T): those that the model was recorded on."""
    return np.array([list(SENTENCE.encode())], np.int32)


def params() -> Params:
    """The parameters that PyTorch draws, made without it."""
    return on_device(init_like_torch(CONFIG, 123))


def batches() -> list[Batch]:
    """The batches of the training, of stories in bytes."""
    text = "".join(tell_story(index, seed=0).text for index in range(20))
    windows = SlidingWindows(np.array(list(text.encode()), np.int32), CONFIG.context_length)
    rows = TRAINING.batch_size
    return [windows.batch(step * rows, rows, seed=123) for step in range(TRAINING.steps)]


def of_torch() -> Recording:
    """PyTorch's recording: every activation and the loss."""
    return replace(load_recording(FILE), name="PyTorch")


def losses_of_torch() -> dict[str, np.ndarray]:
    """PyTorch's loss at each step: in float32, and in float64, with twice the digits."""
    with np.load(FILE) as file:
        return {name: file[f"losses/{name}"] for name in ("float32", "float64")}


def make() -> dict[str, Any]:
    """What stands in the file, computed by PyTorch."""
    import torch

    from jaxgpt.benchmark.trajectories import train_in_torch
    from jaxgpt.parity.recordings.torch_module import record_module
    from jaxgpt.parity.torch_reference import GPT

    torch.manual_seed(123)
    torch.set_num_threads(1)
    recording = record_module(GPT(CONFIG), tokens())
    trained = {
        name: train_in_torch(TRAINING, params(), batches(), 1, getattr(torch, name))
        for name in ("float32", "float64")
    }
    return {
        "tokens": recording.tokens,
        "loss": np.float32(recording.loss),
        **{f"activations/{name}": x for name, x in recording.activations.items()},
        **{f"losses/{name}": losses for name, losses in trained.items()},
    }


if __name__ == "__main__":
    np.savez_compressed(FILE, **make())
