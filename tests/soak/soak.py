"""Runs under random faults: killed, their folders damaged, and started again by the same command.

`soak.py [--faults 500] [--seed 0]` trains a tiny GPT, in one process and in two, and tunes it with
adapters, undisturbed. Then it begins one of the three again and again. A process of it is killed or
gets a signal at a moment of its work, finds the disk full, or a number that is not finite; up to
four parts of its folder are damaged; the same command goes on, and meets the next. In the end it
must come to the same parameters bit for bit, every record of metrics.jsonl, README.md, loss.png and
whole tokens, without a traceback on the way. Prints a line for each fault and a table, and exits
with 1 if any was not survived: all faults of a run count as not survived that does not end so. Its
folder is kept. Disks are filled where a tmpfs can be mounted, which takes root.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

from acts import ACTS, DISK, PEERS, befall, disk
from ending import Ending, differences, ending, metrics
from faults import FAULTS, compiled, newest_step
from processes import MODULES, ROOT, launch, log, wrong

STEPS = 40
SETTINGS = {
    "preset": "tiny",
    "steps": STEPS,
    "checkpoint_every": 8,
    "keep_checkpoints": 3,
    "evaluate_every": 20,
    "evaluation_batches": 2,
    "sample_every": STEPS,
    "sample_tokens": 4,
    "log_every": 4,
    "batch_size": 8,
    "model": {
        **{"vocab_size": 0, "context_length": 64, "num_layers": 1, "num_heads": 1, "embed_dim": 8},
        "dropout": 0.1,
    },
    "data": {"data": ["text.txt"], "tokenizer": "bpe:270", "validation_fraction": 0.2},
    "optimizer": {"warmup_steps": 5},
}
COMMANDS = {
    "train": ["train.py", "run.json"],
    "tune": [
        *("finetune_instructions.py", "--init-from", "train", "--data", "records.jsonl"),
        *("--trained", "lora", "--rank", "2", "--epochs", "6", "--batch-size", "4"),
        *("--checkpoint-every", "5", "--keep-checkpoints", "3", "--evaluate-every", "15"),
        *("--sample-every", "30", "--log-every", "4", "--template", "phi"),
    ],
    "launch": [
        *("launch.py", "--processes", "2", "--"),
        *("train", "run.json", "--peer-timeout", "5"),
    ],
}
WEIGHTS = {"train": 14, "tune": 5, "launch": 1}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="commands, such as train,tune; by default all")
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    options = parser.parse_args(argv)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="jaxgpt-soak-"))
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder.absolute() / "compiled"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    # The programs are small: to optimise them takes longer than it saves.
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    os.environ["PYTHONPATH"] = str(ROOT)  # the server that is forked from has no other path
    sys.path.insert(0, str(ROOT))
    multiprocessing.set_start_method("forkserver")
    multiprocessing.set_forkserver_preload(MODULES)

    names = options.only.split(",") if options.only else list(COMMANDS)
    with disk() as fillable:
        failed = soak(options.faults, options.seed, names, fillable)
    if not failed and options.folder is None:
        shutil.rmtree(folder)
    return int(failed)


def soak(faults: int, seed: int, names: list[str], fillable: bool) -> bool:
    """Try so many faults; whether any was not survived."""
    write_data()
    references = {}
    for name in names:
        code, seconds = launch(COMMANDS[name], Path(name))
        if code:
            print(Path(f"{name}.log").read_text())
            raise SystemExit(f"{name}, undisturbed: exit code {code}")
        print(f"undisturbed: {name}, {seconds:.1f} s", flush=True)
        references[name] = ending(Path(name))
    acts = [act for act in ACTS if fillable or act != "full_disk"]
    peers = [act for act in PEERS if act in acts or act not in ACTS]
    texts = [act for act in acts if not act.endswith("_data")]  # of what keeps no tokens
    decks = {"train": acts, "tune": texts, "launch": peers, "faults": list(FAULTS)}
    # Each in turn, so that all are tried where there are enough; the rest is chance.
    decks = {key: deque(Random(seed).sample(deck, len(deck))) for key, deck in decks.items()}
    tried, failed, number = Counter(), Counter(), 0
    while tried.total() < faults:
        rng, began, problem, met = Random(f"{seed} {number}"), time.monotonic(), "", Counter()
        name = rng.choices(names, [WEIGHTS[name] for name in names])[0]
        run = DISK / f"run{number:03d}"
        number += 1
        try:
            for fault, story in disturbed(name, run, references[name], rng, decks):
                met[fault] += 1
                count = (tried + met).total()
                print(f"{count:3d} {run.name} {name:6} {fault:20} {story}", flush=True)
        except NotSurvivedError as error:
            problem = str(error)
            failed += met
            subprocess.run(["cp", "-a", str(run), run.name], check=False)  # with its pipes
        tried += met
        for path in (run, compiled(run)):
            shutil.rmtree(path, ignore_errors=True)
        print(f"    {run.name}: {problem or 'as undisturbed'}, {time.monotonic() - began:.0f} s")
    print(f"\n{'fault':20} tried  recovered")
    for name, count in (*sorted(tried.items()), ("all", tried.total())):
        lost = failed.total() if name == "all" else failed[name]
        print(f"{name:20} {count:5d} {count - lost:10d}")
    return failed.total() > 0


class NotSurvivedError(Exception):
    """What is wrong with a run after its faults."""


def disturbed(
    name: str, run: Path, reference: Ending, rng: Random, decks: dict[str, deque[str]]
) -> Iterator[tuple[str, str]]:
    """Go through a run and yield each fault, with what it did; NotSurvivedError if one is not."""
    lost, made, same_best = Counter(), Counter(), True
    for _ in range(1 if name == "launch" else 2 + rng.randrange(5)):
        decks[name].rotate(-1)
        act, newest = decks[name][0], newest_step(run)
        story, code, problem = befall(act, COMMANDS[name], run, reference.last, rng)
        if story:
            yield act, story
        if newest_step(run) < newest:
            problem = problem or f"the checkpoint of step {newest} is gone"
        before, done = metrics(run), []
        check(run, problem)
        for fault, story in damages(run, rng, decks["faults"]):
            yield fault, story
            done.append(fault)
        # A record that was destroyed cannot come back, nor one be told from what a flip made; the
        # best checkpoint may have been destroyed, and then it is another.
        lost += Counter(before) - Counter(metrics(run))
        made += Counter(metrics(run)) - Counter(before)
        spoilt = [fault for fault in (act, *done) if fault.startswith(("ck_", "any_", "full_"))]
        same_best = same_best and not spoilt
        if code == 0:
            break
    code, _ = launch(COMMANDS[name], run)
    check(run, wrong(code, run, 0))
    try:
        with contextlib.redirect_stderr(None):  # it tells of what was set aside
            found = ending(run)
    except Exception as error:  # whatever it is, the run is not whole
        raise NotSurvivedError(f"{type(error).__name__}: {str(error)[:200]}") from None
    found = found if same_best else replace(found, best=reference.best)
    check(run, "; ".join(differences(found, reference, lost, made, run)))


def check(run: Path, problem: str) -> None:
    """Raise NotSurvivedError if there is a problem, or a traceback among what was said."""
    if problem or "Traceback" in log(run):
        raise NotSurvivedError(problem or "a traceback")


def damages(run: Path, rng: Random, deck: deque[str]) -> Iterator[tuple[str, str]]:
    """Damage up to four parts of a run's folder; yield each fault, with what it did."""
    parts, wanted = set(), 1 + rng.randrange(4)
    for _ in range(len(deck)):
        if len(parts) == wanted:
            return
        deck.rotate(-1)
        part = deck[0].split("_")[0]
        if part not in parts and run.is_dir() and (story := FAULTS[deck[0]](run, rng)):
            parts.add(part)
            yield deck[0], story


def write_data() -> None:
    """A text to train on, records to tune with, and the settings."""
    rng = Random(0)
    words = ["once", "upon", "a", "time", "the", "king", "of", "seven", "isles", "set", "sail"]

    def sentence() -> str:
        return " ".join(rng.choices(words, k=12))

    Path("text.txt").write_text("\n\n".join(sentence() + "." for _ in range(200)))
    records = [{"instruction": sentence()[:8], "output": sentence()[:8]} for _ in range(24)]
    Path("records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    Path("run.json").write_text(json.dumps(SETTINGS))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
