"""A dataset on disk: a folder with `manifest.json`, token shards, and the tokenizer they are from.

The manifest lists, for the splits "train" and "validation", the shards with their numbers of
tokens and sha256 sums, and how many bytes of text and documents stand behind them. It has a sum
of its own, and that of `sums.bin`, which holds the CRC-32 of each block of all shards, in order.
Datasets from before there were such sums are read too.
"""

import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt32

from jaxgpt.data.paths import MANIFEST
from jaxgpt.data.remote import copy_small_files, is_url
from jaxgpt.data.shards import (
    BLOCK,
    VERSION,
    TokenShard,
    open_shard,
    shard_bytes,
    shard_name,
    verify_shard,
)
from jaxgpt.errors import DataError
from jaxgpt.files import is_sealed, parse_json, read_regular, seal, sha256
from jaxgpt.shell import command
from jaxgpt.tokenization.tokenizer import Tokenizer, load_tokenizer

SUMS = "sums.bin"
_SMALL = (MANIFEST, SUMS, "tokenizer/tokenizer.json", "tokenizer/ranks.tiktoken")
SPLITS = ("train", "validation")

_MOST_BYTES = 1 << 30  # of a manifest, which names each file of text, and of the sums
_QUICK = 1 << 27  # bytes of shards that are read whole when opened
_QUICK_REMADE = 1 << 30  # and of those whose damage can be mended at once


@dataclass(frozen=True)
class TokenSplit:
    """The tokens of one split, read from its memory-mapped shards.

    `num_bytes` is the UTF-8 length of their text, `entropy_bits` its information where known.
    """

    shards: tuple[TokenShard | np.ndarray, ...]
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

        Raises IndexError unless `0 <= start <= stop <= len(self)`, and DataError if a block that is
        read for the first time is not what was written.
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

    def verify(self) -> None:
        """Read all of it; raises DataError where a block is not what was written."""
        for shard in self.shards:
            if isinstance(shard, TokenShard):
                shard.verify()

    @cached_property
    def _ends(self) -> list[int]:
        return np.cumsum([shard.size for shard in self.shards]).tolist()


@dataclass(frozen=True)
class TokenDataset:
    """A folder of token shards that were found to fit its manifest."""

    folder: Path
    manifest: dict[str, Any]
    splits: dict[str, TokenSplit]
    tokenizer: Tokenizer

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        tokenizer: Tokenizer | None = None,
        verify: bool = False,
        remade: bool = False,
    ) -> "TokenDataset":
        """Open the dataset in `folder`; `verify` reads all of it and compares the sha256 sums.

        A URL, such as s3://bucket/data, is read through fsspec, in ranges of its shards, of which
        each block is compared when it is first read.

        Its tokens must be from `tokenizer`, by default the one that was saved with them. Without
        `verify`, up to 128 MiB are read whole, and up to 1 GiB where damage is mended at once, as
        the dataset is `remade` from its text. Of a larger one each block is compared with its sum
        when it is first read; one from before there were such sums is not compared. Raises
        DataError for no dataset, another version or tokenizer, or a damaged shard.
        """
        if is_url(folder):
            with TemporaryDirectory(prefix="jaxgpt-remote-") as copy:
                copy_small_files(str(folder), _SMALL, Path(copy), _MOST_BYTES)
                return cls._open(Path(copy), str(folder), tokenizer, verify, False)
        return cls._open(Path(folder), None, tokenizer, verify, remade)

    @classmethod
    def _open(
        cls, folder: Path, url: str | None, tokenizer: Tokenizer | None, verify: bool, remade: bool
    ) -> "TokenDataset":
        """Of a URL, `folder` has the copies of its small files."""
        manifest = _read_manifest(folder)
        tokenizer = load_tokenizer(folder / "tokenizer") if tokenizer is None else tokenizer
        made_with = manifest["tokenizer"]
        if tokenizer.fingerprint != made_with["fingerprint"]:
            raise DataError(
                f"{folder}: its tokens are from {made_with['name']} "
                f"({made_with['fingerprint'][:12]}), not from {tokenizer.name} "
                f"({tokenizer.fingerprint[:12]}); put the tokenizer that they are from into "
                f"{folder / 'tokenizer'}, or prepare the data again"
            )
        ids = made_with["vocab_size"]
        sums = _block_sums(folder, manifest)
        splits = {}
        for name, split in manifest["splits"].items():
            shards = [
                open_shard(
                    folder / shard["file"] if url is None else f"{url.rstrip('/')}/{shard['file']}",
                    tokens=shard["tokens"],
                    vocab_size=ids,
                    sums=sums.get(shard["file"]),
                    remade=remade,
                )
                for shard in split["shards"]
            ]
            splits[name] = TokenSplit(
                tuple(shards), split["bytes"], split["documents"], split["entropy_bits"]
            )
        listed = _listed(manifest)
        size = sum(shard_bytes(shard["tokens"], ids) for shard in listed)
        quick = size <= (_QUICK_REMADE if remade else _QUICK)
        if url is not None:
            for split in splits.values() if verify else ():
                split.verify()
        elif verify or (quick and not sums):
            for shard in listed:
                verify_shard(folder / shard["file"], shard["sha256"])
        elif quick:
            for split in splits.values():
                split.verify()
        return cls(folder if url is None else Path(url), manifest, splits, tokenizer)

    @property
    def fingerprint(self) -> str:
        """A sha256 sum (hex) that two datasets share when they hold the same tokens."""
        # The sources stay out: the same text under another file name is the same data.
        contents = {key: self.manifest[key] for key in ("version", "tokenizer", "splits")}
        canonical = json.dumps(contents, sort_keys=True, separators=(",", ":"))
        return sha256(canonical.encode())

    def split(self, name: str) -> TokenSplit:
        """The split called "train" or "validation"; raises DataError if there is no such split."""
        if name not in self.splits:
            raise DataError(f"{self.folder}: no split {name!r}, only {sorted(self.splits)}")
        return self.splits[name]


def write_manifest(
    folder: Path, manifest: dict[str, Any], sums: Sequence[UInt32[np.ndarray, " _"]]
) -> None:
    """Write a dataset's manifest, and the sums of its shards' blocks, in the manifest's order."""
    content = np.concatenate(sums).astype("<u4").tobytes()
    listed = {"block": BLOCK, "sha256": sha256(content)}
    for name, written in ((SUMS, content), (MANIFEST, seal(manifest | {"sums": listed}))):
        with open(folder / name, "wb") as file:
            file.write(written)
            os.fsync(file.fileno())


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not os.path.exists(path):
        raise DataError(
            f"{folder}: not a token dataset, it has no {MANIFEST}; make one with "
            f"`{command('prepare')}`"
        )
    content = read_regular(path, limit=_MOST_BYTES)
    try:
        manifest = parse_json(content.decode())
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); prepare the data again") from None
    version = manifest.get("version") if isinstance(manifest, dict) else None
    if version != VERSION:
        raise DataError(
            f"{path}: format version {version}, and this is for {VERSION}; prepare the data again"
        )
    try:
        _check_manifest(manifest)
        # The first datasets had neither.
        sealed = "sha256" in manifest or "sums" in manifest or os.path.exists(folder / SUMS)
        if sealed and not is_sealed(content, manifest):
            raise ValueError("its sum is another")
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
    if "sums" in manifest:
        words.append(manifest["sums"]["sha256"])
        if manifest["sums"]["block"] != BLOCK:
            raise ValueError(f"blocks of {manifest['sums']['block']!r} bytes")
    for value in words:
        if not isinstance(value, str):
            raise TypeError(f"{value!r} for a string")
    for value in counts:
        if type(value) is not int or not 1 <= value < 1 << 63:
            raise ValueError(f"{value!r} for a count")


def _block_sums(folder: Path, manifest: dict[str, Any]) -> dict[str, UInt32[np.ndarray, " _"]]:
    """The sums of each shard's blocks by its name; none where the manifest lists none."""
    if "sums" not in manifest:
        return {}
    content = read_regular(folder / SUMS, limit=_MOST_BYTES)
    if sha256(content) != manifest["sums"]["sha256"]:
        raise DataError(f"{folder / SUMS}: damaged, its sum is another; prepare the data again")
    listed, ids = _listed(manifest), manifest["tokenizer"]["vocab_size"]
    ends = np.cumsum([-(-shard_bytes(shard["tokens"], ids) // BLOCK) for shard in listed])
    parts = np.split(np.frombuffer(content, "<u4"), ends[:-1])
    return {shard["file"]: sums for shard, sums in zip(listed, parts, strict=True)}


def _listed(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return [shard for split in manifest["splits"].values() for shard in split["shards"]]
