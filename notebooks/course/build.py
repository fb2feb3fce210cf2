"""Build the notebooks: `python -m course.build [NN ...]` runs each `.py` and writes its `.ipynb`.

A built notebook depends on its source and the machine alone: cells are numbered, no time is kept,
and `metadata.course.source` is the sha256 of the `.py` that made it. Prints a line for each: the
processor's seconds, most memory, figures, checks. Exit code 1 where a notebook prints to stderr.
"""

import multiprocessing
import resource
import sys
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
_SECONDS = 600  # in which a cell has to end


def sources() -> list[Path]:
    """The notebooks' sources, in order."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def cells_of(source: Path) -> Any:
    """A notebook of the cells of `source`, not yet run."""
    import jupytext

    notebook = jupytext.read(source)
    notebook.metadata = {
        "kernelspec": _KERNEL,
        "language_info": {"name": "python"},
        "course": {"source": sha256(source.read_bytes()).hexdigest()},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"{number:02d}", {}
    return notebook


def build(source: Path) -> int:
    """Run a notebook and write it beside its source; the exit code."""
    import nbformat
    from nbclient import NotebookClient
    from traitlets.config import Config

    notebook = cells_of(source)
    metadata = dict(notebook.metadata)
    NotebookClient(
        notebook,
        timeout=_SECONDS,
        resources={"metadata": {"path": str(FOLDER)}},
        record_timing=False,
        coalesce_streams=True,
        config=Config({"KernelManager": {"transport": "ipc"}}),  # by TCP, it warns
    ).execute()
    notebook.metadata = metadata  # without the kernel's version
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    for output in outputs:
        output.pop("execution_count", None)
    nbformat.write(notebook, source.with_suffix(".ipynb"))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{source.stem:<24}{used.ru_utime + used.ru_stime:5.0f} s of the processor"
        f"{used.ru_maxrss / 2**20:6.2f} GB"
        f"{sum('image/png' in output.get('data', {}) for output in outputs):4d} figures"
        f"{sum(cell.source.startswith('check(') for cell in notebook.cells):4d} checks",
        flush=True,
    )
    errors = [output.text for output in outputs if output.get("name") == "stderr"]
    print("".join(errors), end="", file=sys.stderr)
    return int(bool(errors))


def train() -> int:
    """Train the model that notebooks look into, if it is not there yet; the exit code."""
    from course.model import trained
    from jaxgpt.errors import JaxgptError

    try:
        trained()
    except JaxgptError as error:  # such as a run with other settings, which is not ours to remove
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(f"{'the trained model':<24}{used.ru_utime + used.ru_stime:5.0f} s of the processor")
    return 0


def main(names: list[str]) -> int:
    """Build all, or those whose names begin so, each in a process of its own."""
    chosen = [path for path in sources() if not names or path.name.startswith(tuple(names))]
    jobs: list[Callable[[], int]] = [partial(build, source) for source in chosen]
    if any("trained()" in source.read_text() for source in chosen):
        jobs.insert(0, train)
    codes = []
    for job in jobs:
        process = multiprocessing.get_context("spawn").Process(target=_child, args=(job,))
        process.start()
        process.join()
        codes.append(process.exitcode)
        if job is train and process.exitcode:
            return process.exitcode  # the others would look into a model that is not there
    return int(any(codes) or not codes)


def _child(job: Callable[[], int]) -> None:
    raise SystemExit(job())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
