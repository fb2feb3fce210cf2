"""What can befall a run's folder while no process has it, by name.

A fault is called with the folder and a random.Random; it returns what it did, or None where there
is nothing to do it to. None of them takes the last whole checkpoint of a run.
"""

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

Fault = Callable[[Path, Random], str | None]


def _flip(path: Path, rng: Random, bits: range = range(8)) -> str | None:
    content = bytearray(path.read_bytes())
    if not content:
        return None
    place, bit = rng.randrange(len(content)), rng.choice(bits)
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return f"{path.name}: bit {bit} of byte {place}"


def _truncate(path: Path, rng: Random) -> str | None:
    size = path.stat().st_size
    if not size:
        return None
    length = rng.randrange(size)
    os.truncate(path, length)
    return f"{path.name}: {size} -> {length} bytes"


def _empty(path: Path, rng: Random) -> str:
    path.write_bytes(b"")
    return path.name


def _delete(path: Path, rng: Random) -> str:
    path.unlink()
    return path.name


def _to_fifo(path: Path, rng: Random) -> str:
    path.unlink()
    os.mkfifo(path)
    return path.name


def _to_folder(path: Path, rng: Random) -> str:
    path.unlink()
    path.mkdir()
    return path.name


def _to_link(path: Path, rng: Random) -> str:
    aside = path.parents[3] / f"elsewhere-{path.name}"
    shutil.move(path, aside)
    path.symlink_to(aside)
    return path.name


def checkpoints(run: Path) -> list[Path]:
    """The folders of whole checkpoints, oldest first."""
    found = run.glob("checkpoints/[0-9]*")
    return sorted(path for path in found if path.name.isdigit() and path.is_dir())


def whole(run: Path) -> list[Path]:
    """The checkpoints that are as they were written, oldest first."""
    from jaxgpt.errors import CheckpointError
    from jaxgpt.training.manifest import verify

    found = []
    for path in checkpoints(run):
        with contextlib.suppress(CheckpointError):
            verify(path, int(path.name))
            found.append(path)
    return found


def newest_step(run: Path) -> int:
    """The step of the newest whole checkpoint; 0 without one."""
    return int(whole(run)[-1].name) if whole(run) else 0


def _newest(run: Path) -> Path | None:
    """The newest whole checkpoint, where there is an older one."""
    return whole(run)[-1] if len(whole(run)) > 1 else None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _of_checkpoint(change: Callable[[Path, Random], str | None], name: str = "*") -> Fault:
    def fault(run: Path, rng: Random) -> str | None:
        newest = _newest(run)
        files = [path for path in _files(newest) if path.match(name)] if newest else []
        return f"{newest.name}: {change(rng.choice(files), rng)}" if newest and files else None

    return fault


def _of_both_newest(run: Path, rng: Random) -> str | None:
    if len(whole(run)) < 3:
        return None
    return "; ".join(str(_flip(rng.choice(_files(x)), rng)) for x in whole(run)[-2:])


def _checkpoint_to_file(run: Path, rng: Random) -> str | None:
    if newest := _newest(run):
        shutil.rmtree(newest)
        newest.write_text("no folder")
    return newest and newest.name


def _empty_checkpoint(run: Path, rng: Random) -> str | None:
    if newest := _newest(run):
        shutil.rmtree(newest)
        newest.mkdir()
    return newest and newest.name


def _no_checkpoint(run: Path, rng: Random) -> str | None:
    if newest := _newest(run):
        shutil.rmtree(newest)
    return newest and newest.name


def _stranger(run: Path, rng: Random) -> str | None:
    if newest := _newest(run):
        (newest / "params" / "more").write_text("more")
    return newest and newest.name


def _of(name: str, change: Callable[[Path, Random], str | None]) -> Fault:
    def fault(run: Path, rng: Random) -> str | None:
        files = sorted(path for path in run.glob(name) if path.is_file())
        return change(rng.choice(files), rng) if files else None

    return fault


def _of_any(change: Callable[[Path, Random], str | None], aside: tuple[str, ...] = ()) -> Fault:
    """Of any file but those of the last whole checkpoint, and those `aside`."""

    def fault(run: Path, rng: Random) -> str | None:
        last = whole(run)[-1:] if len(whole(run)) == 1 else []
        files = [
            path
            for path in (_files(run) if run.is_dir() else [])
            if path.name not in aside and not any(path.is_relative_to(x) for x in last)
        ]
        path = rng.choice(files) if files else None
        return f"{path.relative_to(run)}: {change(path, rng)}" if path else None

    return fault


def _gone(name: str) -> Fault:
    def fault(run: Path, rng: Random) -> str | None:
        if not (run / name).is_dir():
            return None
        shutil.rmtree(run / name)
        return name

    return fault


def _append(text: bytes) -> Callable[[Path, Random], str]:
    def change(path: Path, rng: Random) -> str:
        with open(path, "ab") as file:
            file.write(text)
        return repr(text[:30])

    return change


def _middle(path: Path, rng: Random) -> str | None:
    lines = path.read_bytes().splitlines(keepends=True)
    if len(lines) < 3:
        return None
    number = rng.randrange(1, len(lines) - 1)
    lines[number] = rng.choice([b"\xff\xfe\n", b"{\n", b'{"step": 1e999}\n', b"[" * 9999 + b"\n"])
    path.write_bytes(b"".join(lines))
    return f"line {number}"


def _partial(run: Path, rng: Random) -> str | None:
    """What a process that was killed leaves behind, of several writers at once."""
    if not run.is_dir():
        return None
    there = (run / "tokens").is_dir()
    for name in (".tokens.0a1b2c3d.partial", *[".tokens.0a1b2c3d.old"] * there):
        (run / name).mkdir(exist_ok=True)
        (run / name / "train-00000.bin").write_bytes(b"JAXG")
    drafts = ("config.json", "metrics.jsonl", "loss.png")
    for name in (f".{draft}.0a1b2c3d.partial" for draft in drafts):
        (run / name).write_bytes(b"{")
    if (run / "checkpoints").is_dir():
        draft = run / "checkpoints" / ".00000030.1.tmp"
        draft.mkdir(exist_ok=True)
        (draft / "manifest.json").write_bytes(b"")
    return "drafts"


def _stale_lock(run: Path, rng: Random) -> str | None:
    if not run.is_dir():
        return None
    (run / ".lock").write_text("4194304")
    return "a process that is gone"


def compiled(run: Path) -> Path:
    """The folder of compiled programs that a run has to itself, once they are damaged."""
    return Path(f"{run.name}.compiled")


def _of_program(change: Callable[[Path, Random], str | None]) -> Fault:
    def fault(run: Path, rng: Random) -> str | None:
        if not compiled(run).is_dir():
            shutil.copytree(os.environ["JAX_COMPILATION_CACHE_DIR"], compiled(run))
        done = [change(path, rng) for path in sorted(compiled(run).glob("*-cache"))]
        return f"all of {len(done)} programs" if done else None

    return fault


_FOR_PEOPLE = ("README.md", "loss.png")  # what is in them is nobody's to read but a person's
_SHARD = "tokens/*.bin"
FAULTS: dict[str, Fault] = {
    "any_flip": _of_any(_flip, _FOR_PEOPLE),
    "any_truncate": _of_any(_truncate, _FOR_PEOPLE),
    "any_empty": _of_any(_empty),
    "any_delete": _of_any(_delete),
    "drafts_left": _partial,
    "lock_left": _stale_lock,
    "ck_flip_array": _of_checkpoint(_flip, "d/*"),
    "ck_flip_any": _of_checkpoint(_flip),
    "ck_truncate": _of_checkpoint(_truncate, "d/*"),
    "ck_delete": _of_checkpoint(_delete),
    "ck_empty_file": _of_checkpoint(_empty),
    "ck_fifo": _of_checkpoint(_to_fifo),
    "ck_link": _of_checkpoint(_to_link, "d/*"),
    "ck_stranger": _stranger,
    "ck_flip_validation": _of_checkpoint(_flip, "validation.json"),
    "ck_no_manifest": _of_checkpoint(_delete, "manifest.json"),
    "ck_flip_manifest": _of_checkpoint(_flip, "manifest.json"),
    "ck_truncate_manifest": _of_checkpoint(_truncate, "manifest.json"),
    "ck_fifo_manifest": _of_checkpoint(_to_fifo, "manifest.json"),
    "ck_is_file": _checkpoint_to_file,
    "ck_empty_folder": _empty_checkpoint,
    "ck_gone": _no_checkpoint,
    "ck_both": _of_both_newest,
    "metrics_cut": _of("metrics.jsonl", _truncate),
    "metrics_garbage": _of("metrics.jsonl", _append(b"\xff\0\xff garbage")),
    "metrics_number": _of("metrics.jsonl", _append(b'{"step": 1e999}\n')),
    "metrics_middle": _of("metrics.jsonl", _middle),
    "metrics_flip": _of("metrics.jsonl", _flip),
    "metrics_gone": _of("metrics.jsonl", _delete),
    "metrics_folder": _of("metrics.jsonl", _to_folder),
    "config_empty": _of("config.json", _empty),
    "config_flip": _of("config.json", _flip),
    "config_gone": _of("config.json", _delete),
    "card_gone": _of("README.md", _delete),
    "card_empty": _of("README.md", _empty),
    "picture_gone": _of("loss.png", _delete),
    "tok_flip": _of(_SHARD, _flip),
    "tok_flip_low": _of(_SHARD, lambda path, rng: _flip(path, rng, range(1))),
    "tok_delete": _of(_SHARD, _delete),
    "tok_truncate": _of(_SHARD, _truncate),
    "tok_fifo": _of(_SHARD, _to_fifo),
    "tok_gone": _gone("tokens"),
    "tok_no_manifest": _of("tokens/manifest.json", _delete),
    "tok_flip_manifest": _of("tokens/manifest.json", _flip),
    "tok_empty_manifest": _of("tokens/manifest.json", _empty),
    "tok_tokenizer": _of("tokens/tokenizer/*", _flip),
    "tok_tokenizer_cut": _of("tokens/tokenizer/*", _truncate),
    "tok_tokenizer_gone": _gone("tokens/tokenizer"),
    "cache_flip": _of_program(_flip),
    "cache_truncate": _of_program(_truncate),
    "adapters_flip": _of("adapters/*", _flip),
    "adapters_gone": _gone("adapters"),
}
"""Each fault; what two have before the first _ in common befalls the same part of the folder."""
