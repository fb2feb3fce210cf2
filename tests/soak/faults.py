"""What can befall a run's folder while no process has it, by name.

A fault is called with the folder and a random.Random; it returns what it did, or None where there
is nothing to do it to. None of them takes the last whole state of a run.
"""

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


def _newest(run: Path) -> Path | None:
    """The newest checkpoint, where there is an older one."""
    return checkpoints(run)[-1] if len(checkpoints(run)) > 1 else None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _of_checkpoint(change: Callable[[Path, Random], str | None], name: str = "*") -> Fault:
    def fault(run: Path, rng: Random) -> str | None:
        newest = _newest(run)
        files = [path for path in _files(newest) if path.match(name)] if newest else []
        return f"{newest.name}: {change(rng.choice(files), rng)}" if newest and files else None

    return fault


def _of_both_newest(run: Path, rng: Random) -> str | None:
    if len(checkpoints(run)) < 3:
        return None
    return "; ".join(str(_flip(rng.choice(_files(x)), rng)) for x in checkpoints(run)[-2:])


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
    if found := checkpoints(run):
        shutil.rmtree(found[-1])
    return found[-1].name if len(found) > 1 else None


def _stranger(run: Path, rng: Random) -> str | None:
    if newest := _newest(run):
        (newest / "params" / "more").write_text("more")
    return newest and newest.name


def _of(name: str, change: Callable[[Path, Random], str | None]) -> Fault:
    def fault(run: Path, rng: Random) -> str | None:
        files = sorted(path for path in run.glob(name) if path.is_file())
        return change(rng.choice(files), rng) if files else None

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
    for name in (".tokens.0a1b2c3d.partial", ".tokens.0a1b2c3d.old"):
        (run / name).mkdir()
        (run / name / "train-00000.bin").write_bytes(b"JAXG")
    for name in (".config.json.0a1b2c3d.partial", ".metrics.jsonl.tmp", ".loss.png.tmp"):
        (run / name).write_bytes(b"{")
    if (run / "checkpoints").is_dir():
        draft = run / "checkpoints" / ".00000030.1.tmp"
        draft.mkdir()
        (draft / "manifest.json").write_bytes(b"")
    return "drafts"


def _stale_lock(run: Path, rng: Random) -> str | None:
    if not run.is_dir():
        return None
    (run / ".lock").write_text("4194304")
    return "a process that is gone"


def compiled(run: Path) -> Path:
    """The folder of compiled programs that a run has to itself, if there is one."""
    return run.with_name(f"{run.name}.compiled")


def _of_program(change: Callable[[Path, Random], str | None]) -> Fault:
    def fault(run: Path, rng: Random) -> str | None:
        done = [change(path, rng) for path in sorted(compiled(run).glob("*-cache"))]
        return f"all of {len(done)} programs" if done else None

    return fault


def _nothing(run: Path, rng: Random) -> str:
    return ""


SHARD = "tokens/*.bin"
LATE = ("save", "step", "end", "finished")
EARLY = ("start", "tokens", *LATE)
FAULTS: dict[str, tuple[Fault, tuple[str, ...]]] = {
    "none": (_nothing, EARLY),
    "partial_left": (_partial, EARLY),
    "stale_lock": (_stale_lock, EARLY),
    "closed_stderr": (_nothing, EARLY),
    "closed_stdout": (_nothing, LATE),
    "ck_flip_array": (_of_checkpoint(_flip, "d/*"), LATE),
    "ck_flip_any": (_of_checkpoint(_flip), LATE),
    "ck_truncate": (_of_checkpoint(_truncate, "d/*"), LATE),
    "ck_delete": (_of_checkpoint(_delete), LATE),
    "ck_empty_file": (_of_checkpoint(_empty), LATE),
    "ck_fifo": (_of_checkpoint(_to_fifo), LATE),
    "ck_link": (_of_checkpoint(_to_link, "d/*"), LATE),
    "ck_stranger": (_stranger, LATE),
    "ck_flip_validation": (_of_checkpoint(_flip, "validation.json"), LATE),
    "ck_no_manifest": (_of_checkpoint(_delete, "manifest.json"), LATE),
    "ck_flip_manifest": (_of_checkpoint(_flip, "manifest.json"), LATE),
    "ck_truncate_manifest": (_of_checkpoint(_truncate, "manifest.json"), LATE),
    "ck_fifo_manifest": (_of_checkpoint(_to_fifo, "manifest.json"), LATE),
    "ck_is_file": (_checkpoint_to_file, LATE),
    "ck_empty_folder": (_empty_checkpoint, LATE),
    "ck_gone": (_no_checkpoint, LATE),
    "ck_both": (_of_both_newest, LATE),
    "metrics_cut": (_of("metrics.jsonl", _truncate), LATE),
    "metrics_garbage": (_of("metrics.jsonl", _append(b"\xff\0\xff garbage")), LATE),
    "metrics_number": (_of("metrics.jsonl", _append(b'{"step": 1e999}\n')), LATE),
    "metrics_middle": (_of("metrics.jsonl", _middle), LATE),
    "metrics_flip": (_of("metrics.jsonl", _flip), LATE),
    "metrics_gone": (_of("metrics.jsonl", _delete), LATE),
    "metrics_folder": (_of("metrics.jsonl", _to_folder), LATE),
    "config_empty": (_of("config.json", _empty), LATE),
    "config_flip": (_of("config.json", _flip), LATE),
    "config_gone": (_of("config.json", _delete), LATE),
    "card_gone": (_of("README.md", _delete), ("end", "finished")),
    "picture_gone": (_of("loss.png", _delete), ("end", "finished")),
    "card_empty": (_of("README.md", _empty), ("end", "finished")),
    "tok_flip": (_of(SHARD, _flip), EARLY),
    "tok_flip_low": (_of(SHARD, lambda path, rng: _flip(path, rng, range(1))), EARLY),
    "tok_delete": (_of(SHARD, _delete), EARLY),
    "tok_truncate": (_of(SHARD, _truncate), EARLY),
    "tok_fifo": (_of(SHARD, _to_fifo), EARLY),
    "tok_gone": (_gone("tokens"), EARLY),
    "tok_no_manifest": (_of("tokens/manifest.json", _delete), EARLY),
    "tok_flip_manifest": (_of("tokens/manifest.json", _flip), EARLY),
    "tok_empty_manifest": (_of("tokens/manifest.json", _empty), EARLY),
    "tok_tokenizer": (_of("tokens/tokenizer/*", _flip), EARLY),
    "tok_tokenizer_cut": (_of("tokens/tokenizer/*", _truncate), EARLY),
    "tok_tokenizer_gone": (_gone("tokens/tokenizer"), EARLY),
    "cache_flip": (_of_program(_flip), EARLY),
    "cache_truncate": (_of_program(_truncate), EARLY),
    "adapters_flip": (_of("adapters/*", _flip), LATE),
    "adapters_gone": (_gone("adapters"), LATE),
}
"""Each fault, and the moments of a kill after which it is worth trying."""
