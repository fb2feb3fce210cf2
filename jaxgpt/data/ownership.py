"""Which files in a folder jaxgpt wrote, as the listing in it proves; all others are never removed.

A dataset's and a checkpoint's `manifest.json`, a tokenizer's `tokenizer.json` and the record of
adapters are such listings. Formats of others have none, so `jaxgpt.json` is written beside them.
"""

import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxgpt.data.shards import MAGIC
from jaxgpt.errors import ConfigError, DataError
from jaxgpt.files import file_sha256, read_json, write_file

LISTING = "jaxgpt.json"
LISTING_BYTES = 1 << 30  # of a manifest, which names each file of text

_TOKENIZER = r"(?:tokenizer\.json|ranks\.tiktoken)"
_SHARD = r"(?:train|validation)-\d{5}(?:\.damaged)?\.bin"
DATASET = rf"(?:manifest\.json|sums\.bin|{_SHARD}|tokenizer/{_TOKENIZER})"
ADAPTERS = r"adapters\.(?:json|safetensors)"
_ORBAX = (
    r"(?:_METADATA|_CHECKPOINT_METADATA|_sharding|commit_success\.txt|array_metadatas/process_\d+|"
    r"(?:ocdbt\.process_\d+/)?(?:manifest\.ocdbt|d/[0-9a-f]{32})(?:\.__lock)?)"
)
CHECKPOINT = (
    rf"(?:(?:config|manifest|task|validation)\.json|tokenizer/{_TOKENIZER}|adapters/{ADAPTERS}|"
    rf"(?:params|optimizer)(?:\.orbax-checkpoint-tmp[^/]*)?/{_ORBAX})"
)
_EXPORT = (
    r"(?:(?:config|generation_config|vocab|tokenizer_config|special_tokens_map|jaxgpt)\.json|"
    r"merges\.txt|model\.safetensors)"
)
_ANY = "|".join((_TOKENIZER, DATASET, ADAPTERS, CHECKPOINT, _EXPORT))
# Records of one other file: what tells them from a file of others, and its name.
_RECORDS = {
    "adapters.json": ({"base", "sha256", "targets"}, "adapters.safetensors"),
    "tokenizer.json": ({"kind", "sha256"}, "ranks.tiktoken"),
}
_DRAFT = re.compile(r"(^|/)\.([^/]+)\.[0-9a-f]{8}\.(?:partial|old)(?=/|$)")


def refuse_foreign(folder: Path, others: list[str]) -> None:
    """Raise ConfigError, with their names, if there are `others`, such as `foreign_names` finds."""
    if others:
        more = f" (and {len(others) - 3:,} more)" if len(others) > 3 else ""
        raise ConfigError(
            f"{folder}: will not be overwritten, for it holds {', '.join(others[:3])}{more}, and "
            "nothing proves that jaxgpt wrote that; move it away, or name another folder"
        )


def foreign_names(folder: Path) -> list[str]:
    """The files in a folder that no listing in it has, or not as they are now; links count too."""
    listed = _listed(folder)
    return unlisted_names(folder, lambda name: name in listed)


def unlisted_names(folder: Path, known: Callable[[str], object]) -> list[str]:
    """The files in a folder that are not `known` by their path in it, and links and devices.

    Empty folders are asked for by their path and a slash. A pipe holds nothing, and counts as what
    it stands in the place of.
    """
    found = []
    for place, folders, files in os.walk(folder, onerror=_unreadable):
        inside = Path(place).relative_to(folder).as_posix()
        names = [name if inside == "." else f"{inside}/{name}" for name in files + folders]
        for name in names:
            mode = (folder / name).lstat().st_mode
            is_file = stat.S_ISREG(mode) or stat.S_ISFIFO(mode)
            if not stat.S_ISDIR(mode) and not (is_file and known(name)):
                found.append(name)
        if not names and inside != "." and not known(inside + "/"):
            found.append(inside)
    return sorted(found)


def _unreadable(error: OSError) -> None:
    raise ConfigError(f"{error.filename} cannot be read: {error.strerror}") from None


def without_draft(name: str) -> str:
    """A path, with the names of drafts in it turned into the names of what they become."""
    return _DRAFT.sub(r"\1\2", name)


def unfinished_foreign(folder: Path) -> list[str]:
    """The files in a half-written folder, which has no listing yet, by names jaxgpt never gives."""

    def known(name: str) -> bool:
        return name.endswith("/") or bool(re.fullmatch(_ANY, without_draft(name)))

    return unlisted_names(folder, known)


def write_listing(folder: Path, written_by: str) -> None:
    """Write `jaxgpt.json`: the sha256 sums of all files that are in the folder now."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}
    listing = {"written_by": written_by, "files": files}
    write_file(folder / LISTING, json.dumps(listing, indent=2) + "\n")


def _listed(folder: Path) -> set[str]:
    """The paths of the files that the listings in a folder have."""
    names = _summed(folder, LISTING) | _summed(folder, "manifest.json") | _dataset(folder)
    for listing, (keys, other) in _RECORDS.items():
        if keys <= _read(folder / listing).keys():
            names |= {listing, other}
    return names


def _summed(folder: Path, listing: str) -> set[str]:
    """What an export's or a checkpoint's listing names, where the sum is still that."""
    record = _read(folder / listing)
    files = record.get("files")
    if not isinstance(files, dict) or not str(record.get("written_by")).startswith("jaxgpt "):
        return set()
    return {listing} | {name for name in files if _has_sum(folder / name, files[name])}


def _dataset(folder: Path) -> set[str]:
    """The names of a dataset, if its manifest or one of its shards says that it is one.

    Either will do, for damage to the other must not stand in the way of preparing it anew.
    """
    names = os.listdir(folder) if folder.is_dir() else ()
    shards = [name for name in names if name.endswith(".bin") and re.fullmatch(DATASET, name)]
    record = _read(folder / "manifest.json")
    if not {"version", "tokenizer", "splits"} <= record.keys() and not any(
        _begins(folder / name, MAGIC) for name in shards
    ):
        return set()
    tokenizer = {f"tokenizer/{name}" for name in ("tokenizer.json", "ranks.tiktoken")}
    return {"manifest.json", *shards} | tokenizer


def _read(path: Path) -> dict[str, Any]:
    """The mapping in a listing; nothing where there is none."""
    try:
        record = read_json(path, limit=LISTING_BYTES) if not path.is_symlink() else None
    except DataError:
        return {}
    return record if isinstance(record, dict) else {}


def _begins(path: Path, mark: bytes) -> bool:
    if not path.is_file() or path.is_symlink():
        return False
    with open(path, "rb") as file:
        return file.read(len(mark)) == mark


def _has_sum(path: Path, sha256: Any) -> bool:
    try:
        return path.is_file() and not path.is_symlink() and file_sha256(path) == sha256
    except (OSError, ValueError, DataError):  # a name that no file can have
        return False
