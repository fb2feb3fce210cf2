"""GPT-2 of the library transformers, which writes from a folder that jaxgpt saved."""

from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

# By its full name: a type checker reads all models of the library to find it by the short one.
from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel
from transformers.utils import logging

from jaxgpt.benchmark.torch_trainer import find_device
from jaxgpt.errors import JaxgptError

_TIE = 1e-3
"""Logits closer than this share of their range are a tie, which rounding decides."""


class TransformersWriter:
    """Greedy texts of `GPT2LMHeadModel.generate`; raises Unavailable without the platform."""

    def __init__(self, folder: Path, platform: str):
        self._device = find_device(platform)
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        model: Any = GPT2LMHeadModel.from_pretrained(folder, local_files_only=True, dtype="auto")
        self._model = model.to(self._device).eval()

    def write(self, new_tokens: int, prompts: np.ndarray) -> np.ndarray:
        """The new tokens of each row, so many."""
        inputs = torch.from_numpy(prompts).to(self._device, torch.long)
        texts = self._model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
        )
        return texts[:, prompts.shape[1] :].cpu().numpy()

    def compare(self, prompts: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> str:
        """How many of the tokens are the same, `96 of 96`; what follows a tie is not compared.

        Raises JaxgptError where a row parts from the other at a place that is no tie.
        """
        same = 0
        rows = (array.tolist() for array in (prompts, ours, theirs))
        for prompt, mine, other in zip(*rows, strict=True):
            pairs = enumerate(zip(mine, other, strict=True))
            parted = next((place for place, (a, b) in pairs if a != b), None)
            same += len(mine) if parted is None else parted
            if parted is not None:
                self._check_tie(prompt + other[:parted], mine[parted], other[parted])
        return f"{same} of {ours.size}"

    @cached_property
    def _exact(self) -> Any:
        """The model in float32."""
        return self._model if self._model.dtype == torch.float32 else deepcopy(self._model).float()

    def _check_tie(self, text: list[int], mine: int, other: int) -> None:
        tokens = torch.tensor([text], device=self._device)
        with torch.no_grad():
            logits, rounded = (each(tokens).logits[0, -1] for each in (self._exact, self._model))
        # Each of the two sides may round either logit by as much as this one does.
        rounding = float(abs(rounded.float() - logits).max())
        gap, span = float(abs(logits[other] - logits[mine])), float(logits.max() - logits.min())
        if not gap <= _TIE * span + 2 * rounding:
            raise JaxgptError(
                f"jaxgpt writes token {mine} after {len(text)} tokens where transformers writes "
                f"{other}, and their logits are {gap / span:.1e} of the range apart, which is no "
                "tie; they do not do the same work, so their speeds say nothing"
            )
