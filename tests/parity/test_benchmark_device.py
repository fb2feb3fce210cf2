"""A device is measured in parts, each in a process of its own; what is there is not done again."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from jaxgpt.benchmark import device, parts
from jaxgpt.benchmark.machine import describe_machine
from jaxgpt.benchmark.parts import PARTS, Request
from jaxgpt.benchmark.processes import run_module
from jaxgpt.benchmark.report import Report, from_json, to_json
from jaxgpt.benchmark.workload import get_shape
from jaxgpt.config_file import to_dict
from jaxgpt.errors import ConfigError, DataError, JaxgptError
from jaxgpt.model import attention_kernels, transformer

CONFIG = get_shape(
    "tiny",
    vocab_size=31,
    context_length=16,
    num_layers=2,
    num_heads=2,
    embed_dim=16,
    batch_size=4,
    gradient_accumulation=2,
)
SIZES = {"prompt_tokens": 3, "new_tokens": 4, "turns": 1}
REQUEST = Request(to_dict(CONFIG), "cpu", "float32", **SIZES)
SETTINGS = {
    "attention": [{"attention": "chunked"}, {"attention": "cudnn"}],
    "loop": [{"unroll": 1}, {"unroll": 2}],
}


def _report(name):
    rows = [
        {"contender": f"{name} {at}", "median_ms": 2.0 - at, "settings": settings}
        for at, settings in enumerate(SETTINGS.get(name, [{}]))
    ]
    machine = describe_machine()
    return Report(name, "a shape", {}, machine, rows, "median_ms", 0.0, 1.0, notes=("a note",))


@pytest.fixture
def asked(monkeypatch):
    """The parts that were measured, by a name and its request; `asked.failing` fail."""

    class Asked(list):
        failing = ()

    found = Asked()

    def measure(module, name, *, request, seconds, variables):
        assert module == "jaxgpt.benchmark.parts"
        assert bool(variables) == (name == "loop")  # the part that times compilation
        found.append((name, request))
        if name in found.failing:
            raise JaxgptError(f"not done after {seconds:,.0f} s")
        return json.loads(json.dumps(to_json(_report(name))))

    monkeypatch.setattr(device, "run_module", measure)
    return found


def _measure(out, **options):
    return device.measure_device(CONFIG, **SIZES, out=out, **options)


def test_what_is_there_is_not_measured_again(asked, tmp_path):
    out, told = tmp_path / "figures.json", []
    figures = _measure(out, tell=told.append)
    assert [name for name, _ in asked] == list(PARTS)
    assert figures.missing == []
    assert len(told) == 1 + len(PARTS)
    assert "a note" in told[1]
    again = _measure(out)
    assert len(asked) == len(PARTS)
    assert again.reports == figures.reports
    kept = json.loads(out.read_text())
    del kept["parts"]["decode"]
    out.write_text(json.dumps(kept))
    _measure(out)
    assert [name for name, _ in asked[len(PARTS) :]] == ["decode"]
    _measure(out, anew=True)
    assert len(asked) == 2 * len(PARTS) + 1


def test_a_part_that_fails_is_told_and_tried_again_last(asked, tmp_path):
    out, told = tmp_path / "figures.json", []
    asked.failing = ("rates", "step")
    figures = _measure(out, tell=told.append)
    assert figures.failed == {"rates": "not done after 60 s", "step": "not done after 200 s"}
    assert "\nrates: failed: not done after 60 s" in told
    assert len(asked) == len(PARTS)
    kept = json.loads(out.read_text())
    del kept["parts"]["head"]
    out.write_text(json.dumps(kept))
    asked.failing, before = (), len(asked)
    assert _measure(out).failed == {}
    assert [name for name, _ in asked[before:]] == ["head", "rates", "step"]


def test_the_file_is_there_after_each_part(asked, tmp_path, monkeypatch):
    out, measure = tmp_path / "figures.json", device.run_module

    def stopped(module, name, **options):
        if name == "step":
            raise KeyboardInterrupt
        return measure(module, name, **options)

    monkeypatch.setattr(device, "run_module", stopped)
    with pytest.raises(KeyboardInterrupt):
        _measure(out)
    assert list(json.loads(out.read_text())["parts"]) == ["rates", "attention", "loop"]


def test_all_parts_end_within_the_time(asked, tmp_path, monkeypatch):
    clock, limits = [0.0], []

    def late(module, name, *, seconds, **options):
        limits.append(seconds)
        clock[0] += min(seconds, 50)
        return to_json(_report(name))

    monkeypatch.setattr(device, "run_module", late)
    monkeypatch.setattr(device.time, "monotonic", lambda: clock[0])
    figures = _measure(tmp_path / "figures.json", minutes=3.0)
    assert limits == [60, 60, 80, 30]
    assert figures.missing == list(PARTS)[4:]
    assert figures.failed == {}


def test_a_step_has_the_settings_that_were_the_fastest(asked, tmp_path):
    _measure(tmp_path / "figures.json")
    given = dict(asked)
    assert given["attention"]["config"]["unroll"] == 0
    step = Request(**given["step"]).step
    assert (step.attention, step.unroll, step.compute_dtype) == ("cudnn", 2, "bfloat16")
    assert step.gradient_accumulation == 2
    assert Request(**given["step"]).micro_step.batch_size == 2


def test_figures_of_something_else_are_not_mixed_in(asked, tmp_path):
    out = tmp_path / "figures.json"
    _measure(out)
    text, other = out.read_text(), replace(CONFIG, batch_size=8)
    with pytest.raises(ConfigError, match="figures of another model, machine or version"):
        device.measure_device(other, **SIZES, out=out)
    for damaged in ("{}", '{"measured": {}, "parts": {"rates": {}}, "failed": {}}', '{"parts": 7}'):
        out.write_text(damaged)
        with pytest.raises(DataError, match=r"holds no figures of this suite; .* by --anew"):
            _measure(out)
    kept = json.loads(text)
    kept["parts"]["rates"]["rows"] = [{"contender": "x", "median_ms": "fast"}]
    out.write_text(json.dumps(kept))
    with pytest.raises(DataError, match="holds no figures"):
        _measure(out)
    assert len(asked) == len(PARTS)


def test_a_context_too_short_is_refused_at_once(asked):
    with pytest.raises(ConfigError, match="context_length is 16, but 64 tokens of prompt"):
        device.measure_device(CONFIG)
    assert asked == []


def test_pictures_have_the_bars_of_each_part(asked):
    figures = _measure(None)
    assert list(device.panels(figures)) == [f"{name}: ms, median" for name in PARTS]
    assert device.panels(figures)["loop: ms, median"] == {"loop 0": 2.0, "loop 1": 1.0}


# --- the parts ---


def test_attention_by_each_kernel_is_held_against_chunks(monkeypatch):
    report = parts.attention(REQUEST)
    (row,) = report.rows
    assert row["contender"] == "chunked"
    assert row["difference"] == 0
    assert row["settings"] == {"attention": "chunked"}
    assert "an NVIDIA GPU, not cpu" in report.left_out["cudnn"]
    assert from_json(json.loads(json.dumps(to_json(report)))).rows == report.rows
    right = parts.attend_causally
    monkeypatch.setattr(parts, "choose_attention", lambda name, *_: name)
    kernels = {"cudnn": lambda q, k, v: right(q, k, v, scale=0.4), "splash": right}
    monkeypatch.setattr(parts, "KERNELS", kernels)
    with pytest.raises(JaxgptError, match=r"attention cudnn is .* off chunked, more than 0\.05"):
        parts.attention(REQUEST)
    del kernels["cudnn"]
    assert [row["contender"] for row in parts.attention(REQUEST).rows] == ["chunked", "splash"]


@pytest.mark.slow
def test_a_head_in_chunks_has_the_same_loss_in_less_memory(monkeypatch):
    config = replace(CONFIG, model=replace(CONFIG.model, vocab_size=4096))
    report = parts.head(replace(REQUEST, config=to_dict(config)))
    assert [row["contender"] for row in report.rows] == [
        *("at once", "2 chunks", "4 chunks", "8 chunks", "16 chunks")
    ]
    memory = [row["device_peak_mb"] for row in report.rows]
    assert memory[4] < memory[2] < memory[0]


@pytest.mark.whole_run
def test_the_backward_pass_keeps_what_it_is_told_to():
    report = parts.remat(REQUEST)
    blocks, cheap, nothing = (row["device_peak_mb"] for row in report.rows)
    assert blocks < cheap < nothing
    assert len({row["loss"] for row in report.rows}) == 1
    assert "compile_seconds" not in report.rows[0]
    assert transformer.keep_products_and_kernels is attention_kernels.keep_products_and_kernels


def test_steps_out_of_memory_are_left_out(monkeypatch):
    class Trainer:
        def __init__(self, config, params):
            self._layers = config.unroll

        def compile(self, batch):
            return 1.5, 2e6

        def run(self, batches):
            if self._layers == 2:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
            return [3.0] * len(batches)

    monkeypatch.setattr(parts, "JaxTrainer", Trainer)
    report = parts.loop(REQUEST)
    assert report.left_out == {"unrolled": "out of memory"}
    (row,) = report.rows
    assert (row["contender"], row["compile_seconds"]) == ("loop over layers", 1.5)
    monkeypatch.setattr(Trainer, "__init__", lambda self, *_: setattr(self, "_layers", 2))
    with pytest.raises(JaxgptError, match="out of memory in every way"):
        parts.loop(REQUEST)


# --- processes ---


@pytest.fixture
def module(tmp_path):
    """`module(source)` -> what runs it in a process of its own, with options of `run_module`."""

    def make(source, *words, **options):
        (tmp_path / "made.py").write_text(source)
        return run_module("made", *words, variables={"PYTHONPATH": str(tmp_path)}, **options)

    return make


def test_a_process_reads_a_request_and_gives_its_last_line(module):
    said = "print(json.dumps({'got': json.load(sys.stdin), 'words': sys.argv[1:]}))"
    found = module(f"import json, sys; print('noise'); {said}", "a", "b", request={"n": 7})
    assert found == {"got": {"n": 7}, "words": ["a", "b"]}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise SystemExit('error: no such device')", "no such device"),
        ("print(1 / 0)", "ZeroDivisionError: division by zero"),
        (
            "import sys; sys.exit('E: RESOURCE_EXHAUSTED: Out of memory: 9 GB\\nmore')",
            "out of memory: E: RESOURCE_EXHAUSTED: Out of memory: 9 GB",
        ),
        ("import os; os.kill(os.getpid(), 9)", r"it was killed \(SIGKILL\), as where the machine"),
        ("import os; os.abort()", "it was ended by SIGABRT"),
        ("raise SystemExit(3)", "exit code 3"),
    ],
)
def test_why_a_process_failed_is_one_line(module, source, reason):
    with pytest.raises(JaxgptError, match=f"^{reason}") as found:
        module(source)
    assert "\n" not in str(found.value)


def test_one_that_hangs_is_ended_with_all_that_it_started(module, tmp_path):
    source = (
        "import os, pathlib, time\n"
        "if child := os.fork():\n"
        f"    pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child))\n"
        "time.sleep(60)"
    )
    began = time.monotonic()
    with pytest.raises(JaxgptError, match="not done after 1 s"):
        module(source, seconds=1.0)
    assert time.monotonic() - began < 20
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("its child lived on")
