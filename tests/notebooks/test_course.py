"""Notebooks: sources and outputs in step, exercises that refuse wrong answers, pages to read."""

import fcntl
import json
import math
import os
import re
import subprocess
import sys
from importlib import import_module, util
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
sys.path.append(str(NOTEBOOKS))

from course import checks  # noqa: E402
from course.build import cells_of, sources  # noqa: E402

SOURCES = sources()
QUICK = ("00", "01", "02", "03", "04")
"""Run whole in every run of the tests; the others in those of whole runs."""

NUMBERS = [source.name[:2] for source in SOURCES]
EXERCISES = [
    name
    for source in SOURCES
    for name in sorted(re.findall(r'^check\("(\d\d\.\d)"', source.read_text(), re.M))
]


def answers(number):
    spec = util.spec_from_file_location(f"answers_{number}", NOTEBOOKS / f"solutions/{number}.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def built(source):
    return json.loads(source.with_suffix(".ipynb").read_text())


def text_of(cell):
    return "".join(cell["source"])


def outputs(notebook):
    return [output for cell in notebook["cells"] for output in cell.get("outputs", [])]


def printed(output):
    return "".join(output.get("text", output.get("data", {}).get("text/plain", "")))


@pytest.fixture(params=SOURCES, ids=lambda source: source.stem)
def source(request):
    return request.param


@pytest.fixture
def notebook(source):
    return built(source)


def test_outputs_are_of_this_source(source, notebook):
    made = cells_of(source)
    assert notebook["metadata"] == made.metadata
    assert [text_of(cell) for cell in notebook["cells"]] == [cell.source for cell in made.cells]


def python(program):
    """A process of its own, without Jupyter, the network, and the flags of these tests."""
    settings = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    blocked = ("IPython", "ipykernel", "jupytext", "nbclient")
    start = (
        f"import runpy, socket, sys; sys.modules.update(dict.fromkeys({blocked})); "
        f"socket.socket.connect = None; sys.path.insert(0, {str(NOTEBOOKS)!r}); "
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", start + program],
        env=settings | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    [
        pytest.param(path, id=path.stem, marks=() if quick else pytest.mark.whole_run)
        for path in SOURCES
        for quick in [path.name[:2] in QUICK]
    ],
)
def test_a_source_runs_without_jupyter_and_without_a_warning(source, tmp_path_factory):
    if "trained()" in source.read_text():
        with open(tmp_path_factory.getbasetemp().parent / "trained.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one worker trains, others wait for it
            python("from course.model import trained; trained()")
    assert " not yet: " not in python(f"runpy.run_path({str(source)!r})")


@pytest.mark.slow_but_first
@pytest.mark.parametrize("name", EXERCISES)
def test_an_exercise_is_open_until_it_is_answered_right(name, capsys):
    right = answers(name[:2]).RIGHT
    checks.check(name, ...)
    checks.check(name, right[name])
    assert capsys.readouterr().out.split(":")[0] == f"{name} open"
    checks.check(name, right[name])
    assert capsys.readouterr().out == f"{name} right\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", EXERCISES)
def test_a_wrong_answer_is_refused_with_its_hint(name, capsys):
    for wrong, hint in answers(name[:2]).WRONG[name]:
        checks.check(name, wrong)
        said = capsys.readouterr().out
        assert said.startswith(f"{name} not yet: ")
        assert hint in said


def fails(*args, **kwargs):
    raise ValueError("first line\nsecond line")


class Unhandy:
    __hash__ = None

    def __eq__(self, other):
        raise RuntimeError("not to be compared")


NO_ANSWERS = (
    *(None, "", "banana", b"x", True, [], {}, set(), ["a"], 1j, -1, 10**400, math.nan, -math.inf),
    *(object(), Unhandy(), int, np.zeros(3), np.ones((2, 2)), fails, lambda: None),
    *(lambda *args: args, lambda *args: None, lambda *args: "text", lambda *args: math.nan),
    lambda *args: [[1], [1, 2]],
)


@pytest.mark.slow_but_first
@pytest.mark.parametrize("name", EXERCISES)
def test_what_is_no_answer_gets_one_line(name, capsys):
    for answer in NO_ANSWERS:
        checks.check(name, answer)
        said = capsys.readouterr().out
        assert said.startswith(f"{name} not yet: ")
        assert said.count("\n") == 1
        assert len(said) < 450


@pytest.mark.parametrize("number", NUMBERS)
def test_a_notebook_has_three_exercises_with_three_wrong_answers_each(number):
    found = answers(number)
    assert checks.exercises(number) == list(found.RIGHT) == list(found.WRONG)
    assert list(found.RIGHT) == [name for name in EXERCISES if name.startswith(number)]
    assert len(found.RIGHT) == 3
    for wrong in found.WRONG.values():
        assert len(wrong) >= 3
    (path,) = NOTEBOOKS.glob(f"{number}_*.py")
    for name in found.RIGHT:
        assert f'check("{name}", answer)' in path.read_text()


def test_cells_and_outputs_fit_on_a_page(notebook):
    for cell in notebook["cells"]:
        assert cell["cell_type"] == "markdown" or len(text_of(cell).splitlines()) <= 25
    for output in outputs(notebook):
        if "image/png" not in output.get("data", {}):
            lines = printed(output).splitlines()
            assert len(lines) <= 30
            assert max(map(len, lines)) <= 100
        assert output.get("name") != "stderr"
        assert str(Path.home()) not in printed(output)


def test_figures_are_drawn_here_and_described(notebook):
    drawn = [output for output in outputs(notebook) if "image/png" in output.get("data", {})]
    assert len(drawn) >= 3
    for output in drawn:
        assert len(output["metadata"]["image/png"]["alt"]) > 40
    assert not re.search(r"!\[|<img", "".join(map(text_of, notebook["cells"])))


def test_prose_is_short_and_its_numbers_are_those_of_cells(notebook):
    prose = "\n".join(text_of(c) for c in notebook["cells"] if c["cell_type"] == "markdown")
    assert len(prose.split()) <= 1800
    code = "".join(text_of(c) for c in notebook["cells"] if c["cell_type"] == "code")
    shown = code + "".join(map(printed, outputs(notebook)))
    for number in re.findall(r"(?<![\d.])\d{3,}(?![\d.]*\d)", prose):
        assert number in shown, number


def test_a_lesson_gives_no_solution_away(source):
    solutions = (NOTEBOOKS / f"solutions/{source.name[:2]}.py").read_text()
    body = re.search(r"def solution\(.*?\n\n\n", solutions, re.DOTALL)
    lines = [line.strip() for line in body[0].splitlines()[2:] if line.strip()] if body else []
    assert not [line for line in lines if len(line) > 30 and line in source.read_text()]


def test_the_map_leads_to_headings_functions_and_tests():
    rows = re.findall(
        r"^\| (.*?) \| \[\d\d\]\((.*?)\.ipynb\) \| `(.*?)` \| `(.*?)` \|$",
        (NOTEBOOKS / "README.md").read_text(),
        re.MULTILINE,
    )
    assert {name for _, name, _, _ in rows} == {source.stem for source in SOURCES}
    for stage, name, function, test in rows:
        assert re.search(rf"^# ## {re.escape(stage)}", (NOTEBOOKS / f"{name}.py").read_text(), re.M)
        module, _, attribute = function.rpartition(".")
        assert hasattr(import_module(module), attribute)
        assert attribute in (ROOT / test).read_text()
