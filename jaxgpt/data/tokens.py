"""A dataset on disk: a folder with `manifest.json`, token shards, and the tokenizer they are from.

The manifest lists, for the splits "train" and "validation", the shards with their numbers of
tokens and sha256 sums, and how many bytes of text and documents stand behind them.
"""

import hashlib
import json
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from jaxgpt.data.shards import VERSION, open_shard, shard_name, verify_shard
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.errors import DataError

MANIFEST = "manifest.json"
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class TokenSplit:
    """The tokens of one split, read from its memory-mapped shards.

    `num_bytes` is the UTF-8 length of the text behind them, `entropy_bits` its information content
    where whoever wrote the text knew it.
    """

    shards: tuple[np.ndarray, ...]
    num_bytes: int
    num_documents: int
    entropy_bits: float | None = None

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def num_tokens(self) -> int:
        """The number of tokens, those that end documents among them."""
        return len(self)

    @property
    def tokens_per_byte(self) -> float:
        """Turns a loss per token into one per byte, by which tokenizers can be compared."""
        return self.num_tokens / self.num_bytes

    def read(self, start: int, stop: int) -> Int32[np.ndarray, " N"]:
        """A copy of the tokens from `start` up to `stop`.

        Raises:
            IndexError: not `0 <= start <= stop <= len(self)`.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"tokens [{start}, {stop}) of a split that has {len(self)}")
        tokens = np.empty(stop - start, np.int32)
        filled, shard = 0, bisect_right(self._ends, start)
        while filled < tokens.size:
            begin = start + filled - (self._ends[shard - 1] if shard else 0)
            part = self.shards[shard][begin : begin + tokens.size - filled]
            tokens[filled : filled + part.size] = part
            filled, shard = filled + part.size, shard + 1
        return tokens

    @cached_property
    def _ends(self) -> list[int]:
        return np.cumsum([shard.size for shard in self.shards]).tolist()


@dataclass(frozen=True)
class TokenDataset:
    """A folder of token shards that were found to fit its manifest."""

    folder: Path
    manifest: dict[str, Any]
    splits: dict[str, TokenSplit]

    @classmethod
    def open(
        cls, folder: str | Path, *, tokenizer: Tokenizer | None = None, verify: bool = False
    ) -> "TokenDataset":
        """Open the dataset in `folder`; `verify` reads all of it and compares the sha256 sums.

        Raises:
            DataError: no dataset there, one from another version or with another tokenizer than
                the one given, or a shard that is missing, truncated or damaged.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        if tokenizer is not None:
            _check_tokenizer(folder, manifest["tokenizer"], tokenizer)
        splits = {}
        for name, split in manifest["splits"].items():
            splits[name] = TokenSplit(
                tuple(
                    open_shard(
                        folder / shard["file"],
                        tokens=shard["tokens"],
                        vocab_size=manifest["tokenizer"]["vocab_size"],
                    )
                    for shard in split["shards"]
                ),
                split["bytes"],
                split["documents"],
                split["entropy_bits"],
            )
            for shard in split["shards"] if verify else ():
                verify_shard(folder / shard["file"], shard["sha256"])
        return cls(folder, manifest, splits)

    @property
    def fingerprint(self) -> str:
        """A sha256 sum (hex) that two datasets share when they hold the same tokens."""
        # The sources stay out: the same text under another file name is the same data.
        contents = {key: self.manifest[key] for key in ("version", "tokenizer", "splits")}
        canonical = json.dumps(contents, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def split(self, name: str) -> TokenSplit:
        """The split called "train" or "validation".

        Raises:
            DataError: the dataset has no such split.
        """
        if name not in self.splits:
            raise DataError(f"{self.folder}: no split {name!r}, only {sorted(self.splits)}")
        return self.splits[name]


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(
            f"{folder}: not a token dataset, {MANIFEST} cannot be read ({error.strerror}); "
            "make one with scripts/prepare_data.py"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}); prepare the data again") from None
    version = manifest.get("version") if isinstance(manifest, dict) else None
    if version != VERSION:
        raise DataError(
            f"{path}: format version {version}, and this is for {VERSION}; prepare the data again"
        )
    try:
        _check_manifest(manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: damaged ({what}); prepare the data again") from None
    return manifest


def _check_manifest(manifest: dict[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError unless all that is read later is there and sound."""
    made_with = manifest["tokenizer"]
    words = [made_with["name"], made_with["fingerprint"]]
    counts = [made_with["vocab_size"]]
    for name, split in manifest["splits"].items():
        if name not in SPLITS or not split["shards"]:
            raise ValueError(f"split {name!r}")
        if not isinstance(split["entropy_bits"], float | None):
            raise TypeError("entropy_bits")
        counts += [split["bytes"], split["documents"]]
        for number, shard in enumerate(split["shards"]):
            # Any other name might lead out of the folder.
            if shard["file"] != shard_name(name, number):
                raise ValueError(f"shard {shard['file']!r}")
            words.append(shard["sha256"])
            counts.append(shard["tokens"])
    for value in words:
        if not isinstance(value, str):
            raise TypeError(f"{value!r} for a string")
    for value in counts:
        if type(value) is not int or not 1 <= value < 1 << 63:
            raise ValueError(f"{value!r} for a count")


def _check_tokenizer(folder: Path, made_with: dict[str, Any], tokenizer: Tokenizer) -> None:
    if tokenizer.fingerprint != made_with["fingerprint"]:
        raise DataError(
            f"{folder}: its tokens are from {made_with['name']} "
            f"({made_with['fingerprint'][:12]}), not from {tokenizer.name} "
            f"({tokenizer.fingerprint[:12]}); use the tokenizer in {folder / 'tokenizer'}, or "
            "prepare the data with this one"
        )
