"""What came of a run, and in what it is not what came of another."""

import contextlib
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from faults import checkpoints


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
    last: str
    """The last checkpoint."""


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

    from jaxgpt.data.tokens import TokenDataset
    from jaxgpt.finetuning.lora import fingerprint
    from jaxgpt.finetuning.pretrained import load_pretrained
    from jaxgpt.training.arrays import read_arrays, stored_shapes
    from jaxgpt.training.checkpoint import verify
    from jaxgpt.training.kept import find_best

    newest = checkpoints(run)[-1]
    verify(newest)
    digest = hashlib.sha256(newest.name.encode())
    for part in ("params", "optimizer"):
        tree = read_arrays(newest / part, stored_shapes(newest / part))
        for path, leaf in jax.tree.leaves_with_path(tree):
            digest.update(repr((jax.tree_util.keystr(path), leaf.shape, str(leaf.dtype))).encode())
            digest.update(np.asarray(leaf).tobytes())
    tokens = ""
    if (run / "tokens").exists():
        tokens = TokenDataset.open(run / "tokens", verify=True).fingerprint
    model = fingerprint(load_pretrained(run).params)
    return Ending(digest.hexdigest(), metrics(run), tokens, model, find_best(run).name, newest.name)


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
