"""Runs under random faults: killed, their folders damaged, and started again by the same command.

`soak.py [--faults 100] [--seed 0]` trains a tiny GPT and tunes it with adapters, undisturbed; then
it does one of the two again and again, killing it at a random moment and damaging its folder. The
same command must come to its end, with the same parameters bit for bit, every record of
metrics.jsonl, README.md, loss.png and whole tokens. Prints a line for each fault and a table, and
exits with 1 if any was not survived. The folder of one that was not is kept.
"""

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from faults import FAULTS, checkpoints, compiled

ROOT = Path(__file__).resolve().parents[2]
STEPS = 60
SECONDS = 300  # after which a command counts as hanging
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SETTINGS = {
    "preset": "tiny",
    "steps": STEPS,
    "checkpoint_every": 10,
    "keep_checkpoints": 3,
    "evaluate_every": 20,
    "evaluation_batches": 2,
    "sample_every": 20,
    "sample_tokens": 4,
    "log_every": 5,
    "batch_size": 8,
    "model": {
        **{"vocab_size": 0, "context_length": 64, "num_layers": 1, "num_heads": 1, "embed_dim": 8},
        "dropout": 0.1,
    },
    "data": {"data": ["text.txt"], "tokenizer": "bpe:270", "validation_fraction": 0.2},
    "optimizer": {"warmup_steps": 5},
}
TRAIN = ["train.py", "run.json"]
TUNE = [
    *("finetune_instructions.py", "--init-from", "base", "--data", "records.jsonl"),
    *("--trained", "lora", "--rank", "2", "--epochs", "6", "--batch-size", "4"),
    *("--checkpoint-every", "5", "--keep-checkpoints", "3", "--evaluate-every", "10"),
    *("--sample-every", "10", "--log-every", "5", "--template", "phi"),
]
MODULES = [
    *(
        "jaxgpt.training.pretrain",
        "jaxgpt.finetuning.tune_instructions",
        "jaxgpt.finetuning.pretrained",
    ),
    *("jaxgpt.generation.text", "matplotlib.figure", "matplotlib.backends.backend_agg", "tyro"),
]
"""Imported once, by the process that all commands are forked from."""


@dataclass(frozen=True)
class Ending:
    """What is the same of two runs of one command."""

    state: str
    """The sum of all arrays of the last checkpoint."""
    records: list[str]
    """The lines of metrics.jsonl but for times."""
    tokens: str
    """The fingerprint of the tokens, where the run has its own."""
    model: str
    """The sum of what generate.py would load of it."""
    best: str
    """The checkpoint that --best takes."""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="commands at a time")
    parser.add_argument("--only", default="", help="faults whose names begin so")
    parser.add_argument("--training", action="store_true", help="no fine-tuning")
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    options = parser.parse_args(argv)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="jaxgpt-soak-"))
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    # The programs are small: to optimise them takes longer than it saves.
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    os.environ["PYTHONPATH"] = str(ROOT)  # the server that is forked from has no other path
    sys.path.insert(0, str(ROOT))
    multiprocessing.set_start_method("forkserver")
    multiprocessing.set_forkserver_preload(MODULES)

    write_data()
    commands = [TRAIN] if options.training else [TRAIN, TUNE]
    references = {}
    for command, out in zip(commands, ("base", "tuned"), strict=False):
        code, seconds = launch(command, Path(out))
        if code:
            print(Path(f"{out}.log").read_text())
            raise SystemExit(f"{' '.join(command)} undisturbed: exit code {code}")
        print(f"undisturbed: {command[0]}, {seconds:.1f} s", flush=True)
        references[command[0]] = ending(Path(out))

    names = [name for name in FAULTS if name.startswith(options.only)]
    if options.training:
        names = [name for name in names if not name.startswith("adapters_")]
    Random(options.seed).shuffle(names)
    tried, failed = Counter(), Counter()

    def fault(number: int) -> None:
        rng = Random(f"{options.seed} {number}")
        # Each in turn, so that all are tried where there are enough; the rest is chance.
        name = names[number % len(names)]
        began = time.monotonic()
        command = commands[rng.random() < 0.3 and len(commands) > 1]
        if name.startswith(("tok_", "adapters_")):  # which only one of the two has
            command = commands[-(name[0] == "a")]
        run = Path(f"run{number:03d}")
        if name.startswith("cache_"):
            shutil.copytree(os.environ["JAX_COMPILATION_CACHE_DIR"], compiled(run))
        story, problem = suffer(name, command, run, references[command[0]], rng)
        tried[name] += 1
        failed[name] += bool(problem)
        if not problem:
            for path in (run, compiled(run)):
                shutil.rmtree(path, ignore_errors=True)
        line = f"{number:3d} {name:20} {command[0][:8]} {story}: {problem or 'survived'}"
        print(f"{line}, {time.monotonic() - began:.1f} s", flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(fault, range(options.faults)))
    print("\nfault                 tried  failed")
    for name, count in sorted(tried.items()):
        print(f"{name:20} {count:6d} {failed[name]:7d}")
    print(f"{'all':20} {tried.total():6d} {failed.total():7d}")
    if failed.total() == 0 and options.folder is None:
        shutil.rmtree(folder)
    return int(failed.total() > 0)


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


def start(command: list[str], run: Path, closed: int | None = None) -> Any:
    """The command as a process of its own, with its output in a file beside the run."""
    argv = [*command, "--out", str(run)]
    process = multiprocessing.Process(target=_child, args=(argv, run, closed))
    process.start()
    return process


def _child(argv: list[str], run: Path, closed: int | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what comes before the script is not its own
    with open(f"{run}.log", "a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))  # noqa: SIM115
    if closed is not None:  # as Python finds them behind `1>&-` and `2>&-`
        os.close(closed)
        setattr(sys, ("", "stdout", "stderr")[closed], None)
    if compiled(run).is_dir():
        import jax

        jax.config.update("jax_compilation_cache_dir", str(compiled(run).absolute()))
    sys.argv = argv
    script = str(ROOT / "scripts" / argv[0])
    sys.path.insert(0, str(ROOT / "scripts"))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    runpy.run_path(script, run_name="__main__")


def launch(command: list[str], run: Path, closed: int | None = None) -> tuple[int | None, float]:
    """The exit code of the command, undisturbed, and its seconds; None if it hangs."""
    began = time.monotonic()
    process = start(command, run, closed)
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        return None, time.monotonic() - began
    return process.exitcode, time.monotonic() - began


def killed(command: list[str], run: Path, moment: str, rng: Random) -> tuple[str, int, int]:
    """Start the command and send it a signal at the moment; what was done, signal, exit code."""
    here = _moment(moment, run, rng)
    number, wait = rng.choice(SIGNALS), rng.random() ** 2 * 0.3
    process = start(command, run)
    began = time.monotonic()
    while process.is_alive() and not here() and time.monotonic() - began < SECONDS:
        time.sleep(0.0005)
    if moment != "finished":
        time.sleep(wait if moment in ("start", "step") else wait / 10)
    alive = process.is_alive()
    if alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
    process.join(SECONDS)
    steps = checkpoints(run)[-1].name.lstrip("0") if checkpoints(run) else "none"
    name = signal.Signals(number).name if alive else "left alone"
    return f"{name} ({moment}, checkpoint {steps})", number, process.exitcode


def _moment(name: str, run: Path, rng: Random) -> Callable[[], bool]:
    step = rng.choice([10, 20, 20, 30, 40, 50])

    def any_of(pattern: str) -> bool:
        with contextlib.suppress(OSError):
            return next(iter(run.glob(pattern)), None) is not None
        return False

    return {
        "start": lambda: True,
        "tokens": lambda: any_of(".tokens*") or any_of("tokens"),
        "step": lambda: any_of(f"checkpoints/*{step}"),
        "save": lambda: any_of(f"checkpoints/*{step - 10 or ''}") and any_of("checkpoints/.*"),
        "end": lambda: any_of(f"checkpoints/000000{STEPS}") or any_of("checkpoints/00000030"),
        "finished": lambda: False,
    }[name]


def suffer(
    name: str, command: list[str], run: Path, reference: Ending, rng: Random
) -> tuple[str, str]:
    """Kill and damage a run and go on with it: what was done, and what is wrong, if anything."""
    damage, moments = FAULTS[name]
    if command is TUNE:  # which reads its records anew
        moments = [moment for moment in moments if moment != "tokens"]
    story, number, code = killed(command, run, rng.choice(moments), rng)
    if code not in (0, 128 + number, -number):
        return story, f"exit code {code} at the signal: {last_line(run)}"
    lines = metrics(run)
    done = damage(run, rng) if run.is_dir() else None
    story += f", {done}" if done else ", nothing to damage" if done is None else ""
    # A record that was destroyed cannot come back, nor one be told from what a flipped bit made.
    lost, made = Counter(lines) - Counter(metrics(run)), Counter(metrics(run)) - Counter(lines)
    closed = {"closed_stdout": 1, "closed_stderr": 2}.get(name)
    if rng.random() < 0.2:
        again, number, code = killed(command, run, rng.choice(["start", "step", "save"]), rng)
        story += f", then {again}"
        if code not in (0, 128 + number, -number):
            return story, f"exit code {code} at the second signal: {last_line(run)}"
    code, _ = launch(command, run, closed)
    if code != 0:
        return story, "hangs" if code is None else f"exit code {code}: {last_line(run)}"
    if left := [path.name for path in run.rglob(".*") if path.name != ".lock"]:
        story += f", left behind {len(left)} such as {min(left)}"
    try:
        found = ending(run)
        if name.startswith("ck_"):  # which may have destroyed the best, and then it is another
            found = replace(found, best=reference.best)
        return story, "; ".join(differences(found, reference, lost, made, run))
    except Exception as error:  # whatever it is, the run is not whole
        return story, f"{type(error).__name__}: {str(error)[:200]}"


def last_line(run: Path) -> str:
    lines = Path(f"{run}.log").read_text(errors="replace").splitlines() or [""]
    return lines[-1][:300]


def metrics(run: Path) -> list[str]:
    """The records that can be read, without what is measured by the clock."""
    records = []
    with contextlib.suppress(OSError):
        for line in (run / "metrics.jsonl").read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                record = json.loads(line)
                kept = {k: v for k, v in record.items() if not k.endswith("_per_second")}
                records.append(json.dumps(kept, sort_keys=True))
    return records


def ending(run: Path) -> Ending:
    """What came of a run; raises whatever is raised where it is not whole."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    from jaxgpt.data.tokens import TokenDataset
    from jaxgpt.finetuning.lora import fingerprint
    from jaxgpt.finetuning.pretrained import load_pretrained
    from jaxgpt.training.checkpoint import verify
    from jaxgpt.training.kept import find_best

    newest = checkpoints(run)[-1]
    verify(newest)
    digest = hashlib.sha256(newest.name.encode())
    for part in ("params", "optimizer"):
        with ocp.StandardCheckpointer() as checkpointer:
            tree = checkpointer.restore((newest / part).absolute())
        for path, leaf in jax.tree.leaves_with_path(tree):
            digest.update(repr((jax.tree_util.keystr(path), leaf.shape, str(leaf.dtype))).encode())
            digest.update(np.asarray(leaf).tobytes())
    tokens = ""
    if (run / "tokens").exists():
        tokens = TokenDataset.open(run / "tokens", verify=True).fingerprint
    model = fingerprint(load_pretrained(run).params)
    return Ending(digest.hexdigest(), metrics(run), tokens, model, find_best(run).name)


def differences(
    found: Ending, wanted: Ending, lost: Counter[str], made: Counter[str], run: Path
) -> list[str]:
    """What is not as it was in the undisturbed run."""
    problems = []
    if found.state != wanted.state:
        problems.append("OTHER PARAMETERS")
    if found.model != wanted.model:
        problems.append("another model is loaded")
    if found.best != wanted.best:
        problems.append(f"the best is {found.best}, no longer {wanted.best}")
    if found.tokens != wanted.tokens:
        problems.append("other tokens")
    missing = Counter(wanted.records) - Counter(found.records) - lost
    if missing:
        problems.append(f"{missing.total()} records missing, such as {min(missing)[:80]}")
    if more := Counter(found.records) - Counter(wanted.records) - made:
        problems.append(f"{more.total()} records too many, such as {min(more)[:80]}")
    for name in ("README.md", "loss.png"):
        if not (run / name).is_file() or not (run / name).stat().st_size:
            problems.append(f"no {name}")
    return problems


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
