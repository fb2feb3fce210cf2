"""What a command line names as a model, opened: a folder, a Python file, or a recording."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from jaxgpt.config import ModelConfig
from jaxgpt.errors import CheckpointError, ConfigError, DataError
from jaxgpt.finetuning.lora_file import find_adapters
from jaxgpt.finetuning.pretrained import find_tokenizer, is_own, load_pretrained
from jaxgpt.huggingface.config import check_folder
from jaxgpt.huggingface.weights import load_gpt2
from jaxgpt.model.layers import Params
from jaxgpt.parity.recordings.recording import Recording, record_model
from jaxgpt.parity.recordings.recording_file import load_recording
from jaxgpt.tokenization.tokenizer import Tokenizer, load_tokenizer
from jaxgpt.training.checkpoint import load_model

Record = Callable[[Int[np.ndarray, "B T"], int | None], Recording]


@dataclass(frozen=True)
class Side:
    """One of two models to compare."""

    record: Record
    """Its recording on given tokens; the number of heads stands in where it does not tell."""
    config: ModelConfig | None = None
    """Where it is known before it runs."""
    tokenizer: Callable[[], Tokenizer] | None = None
    """Loads its own, if it has one."""
    tokens: Int[np.ndarray, "B T"] | None = None
    """Those that it was recorded on."""


def open_side(spec: str) -> Side:
    """The side that `spec` names.

    It is a run's or a checkpoint's folder; a Hugging Face folder; `file.py:function` (or
    `file.py`, whose function is make_model), which is run; or an `.npz` of `save_recording`. Raises
    CheckpointError or DataError if it cannot be read.
    """
    file, _, function = spec.rpartition(":") if ".py:" in spec else (spec, "", "make_model")
    if file.endswith(".py"):
        return _open_module(spec, Path(file), function)
    path = Path(spec)
    if path.suffix == ".npz":
        recording = load_recording(path)
        return Side(lambda *_: recording, recording.config, tokens=recording.tokens)
    if os.path.isfile(path):
        check_folder(path)
    if not os.path.isdir(path):  # pathlib's would raise on a name that is too long
        raise CheckpointError(
            f"{spec}: no such folder; name a run's, a checkpoint's or a Hugging Face folder, "
            "file.py:make_model, or a recording .npz"
        )
    if not is_own(path) and os.path.isfile(path / "config.json"):
        config, params = load_gpt2(path)
        return _of_params(spec, config, params, lambda: load_tokenizer(find_tokenizer(path)))
    model = load_pretrained(path) if find_adapters(path) else load_model(path)
    return _of_params(spec, model.config, model.params, lambda: model.tokenizer)


def _open_module(spec: str, path: Path, function: str) -> Side:
    # PyTorch is needed for such a side alone.
    from jaxgpt.parity.recordings.torch_file import blaming, load_module
    from jaxgpt.parity.recordings.torch_module import record_module

    module = load_module(path, function)

    def record(tokens: Int[np.ndarray, "B T"], heads: int | None) -> Recording:
        with blaming(spec):  # all that it looks at may be a property of the module's
            return record_module(module, tokens, spec, num_heads=heads)

    return Side(record)


def _of_params(
    spec: str, config: ModelConfig, params: Params, tokenizer: Callable[[], Tokenizer]
) -> Side:
    return Side(lambda tokens, _: record_model(config, params, tokens, spec), config, tokenizer)


def choose_tokens(
    sides: Sequence[Side], text: str = "", ids: str = "", tokenizer: str = ""
) -> Int[np.ndarray, "B T"]:
    """The tokens to compare on: of a recording, or `ids` (numbers apart by spaces), or of `text`.

    A text is encoded by the tokenizer named, by that of the first side that has one, or by GPT-2's.
    Raises ConfigError if there is not one source, or an id is no number; DataError if a recording
    has others, or there is no such tokenizer.
    """
    if text and ids:
        raise ConfigError("--text and --tokens are both given; drop one of the two")
    recorded = next((side.tokens for side in sides if side.tokens is not None), None)
    if not text and not ids:
        if recorded is None:
            raise ConfigError("nothing to compare on; give --text or --tokens")
        return recorded
    given = _parse_ids(ids) if ids else _encode(sides, text, tokenizer)
    tokens = np.array([given], np.int32)
    if recorded is not None and not np.array_equal(tokens, recorded):
        raise DataError(
            f"the recording was made on {recorded.size} other tokens; leave out --text and "
            "--tokens to take them"
        )
    return tokens


def _parse_ids(ids: str) -> list[int]:
    words, largest = ids.split(), 2**31 - 1
    odd = [x[:20] for x in words if not x.isdecimal() or len(x) > 10 or int(x) > largest]
    if odd or not words:
        raise ConfigError(
            f"--tokens has {odd[0] if odd else 'no number'}; write whole numbers from 0, such as "
            '"15496 11 995"'
        )
    return list(map(int, words))


def _encode(sides: Sequence[Side], text: str, tokenizer: str) -> list[int]:
    own = [side.tokenizer for side in sides if side.tokenizer is not None]
    if tokenizer or not own:
        return load_tokenizer(tokenizer or "gpt2").encode(text)
    for load in own[:-1]:
        try:
            found = load()
        except DataError:
            continue  # the next may have one
        return found.encode(text)
    return own[-1]().encode(text)


def record_both(a: Side, b: Side, tokens: Int[np.ndarray, "B T"]) -> tuple[Recording, Recording]:
    """Both sides' recordings on `tokens`; a side that does not tell its heads has the other's."""
    heads = [side.config.num_heads if side.config else None for side in (b, a)]
    return a.record(tokens, heads[0]), b.record(tokens, heads[1])
