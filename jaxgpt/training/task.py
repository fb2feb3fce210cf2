"""What fine-tuning made of a model: the record that a checkpoint or a folder of adapters keeps."""

from pathlib import Path
from typing import Any

from jaxgpt.errors import CheckpointError

POOLINGS = ("last", "first", "mean")
_TUNED = ("instructions", "preferences")


def check_task(task: Any, where: str | Path) -> dict[str, Any]:
    """The record `task`, read from `where`: empty after pretraining, else of a kind that is known.

    A classifier's has its `classes` and `pooling`, any other the name of its `template`. Raises
    CheckpointError for a field that is missing or not of its kind.
    """

    def need(holds: bool, what: str) -> None:
        if not holds:
            raise CheckpointError(f"{where} {what}; take another checkpoint, or tune again")

    need(isinstance(task, dict), "holds no task")
    if not task:
        return task
    kind, base = task.get("kind"), task.get("base", "")
    need(kind in (*_TUNED, "classification"), f"has the kind {kind!r}, which is not known here")
    need(isinstance(base, str), f"has the base {base!r}, where a sum is due")
    if kind in _TUNED:
        template = task.get("template")
        need(isinstance(template, str), f"has the template {template!r}, where a name is due")
        return task
    classes, pooling, seed = task.get("classes"), task.get("pooling"), task.get("seed", 0)
    named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    need(named and len(set(classes)) == len(classes) > 1, "names no two classes or more")
    need(pooling in POOLINGS, f"has the pooling {pooling!r}, none of {', '.join(POOLINGS)}")
    need(type(seed) is int and 0 <= seed < 2**32, f"has the seed {seed!r}")
    return task
