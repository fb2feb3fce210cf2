"""A trace of some steps carries the names of the code, and changes no run."""

import gzip
import json
import re

import jax
import numpy as np
import pytest

from jaxgpt.errors import ConfigError
from jaxgpt.run_config import RunOptions
from jaxgpt.training.compiled_step import CompiledStep
from jaxgpt.training.pretrain import pretrain
from jaxgpt.training.profile import (
    STAGES,
    instruction_origins,
    profiling,
    share_time,
    stage_of,
)
from jaxgpt.training.program import Program
from jaxgpt.training.report import Reporter


@pytest.mark.whole_run
def test_a_traced_run_is_the_same_run_and_shows_its_stages(small_run, tmp_path, capfd):
    config = small_run(steps=8)
    plain = pretrain(config, tmp_path / "plain")
    capfd.readouterr()
    run = tmp_path / "traced"
    traced = pretrain(config, run, RunOptions(profile=3))
    shown = capfd.readouterr().err
    for ours, theirs in zip(
        jax.tree.leaves(traced.state), jax.tree.leaves(plain.state), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert (run / "config.json").read_text() == (tmp_path / "plain/config.json").read_text()
    assert f"trace: open {run}/profile/trace.json.gz at https://ui.perfetto.dev" in shown

    table = shown[re.search(r"[\d.]+ ms a step", shown).start() :].split("trace: ")[0].splitlines()
    rows = {line[:20].strip(): line[20:].split() for line in table[1:]}
    assert set(STAGES) < set(rows) <= {*STAGES, "other", "no instruction"}
    shares = [float(word[:-1]) for row in rows.values() for word in row if word.endswith("%")]
    moved = [float(row[-1]) for name, row in rows.items() if name != "no instruction"]
    whole = float(table[0].split()[-2].replace(",", ""))
    assert sum(moved) == pytest.approx(whole, abs=0.5 * len(moved) + 0.5)
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares) + 1e-9)
    assert float(rows["attention"][0]) > 0 < float(rows["attention"][1])
    assert float(rows["optimizer"][0]) > 0 == float(rows["optimizer"][1])

    with gzip.open(run / "profile/trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    assert {"attention", "attention backward"} < {event.get("name") for event in events}
    steps = [event["args"]["step_num"] for event in events if event.get("name") == "step"]
    assert steps == ["4", "5", "6"]
    assert list((run / "profile/plugins/profile").glob("*/*.xplane.pb"))


class _Told(Reporter):
    """A reporter that keeps what it says."""

    def __init__(self, run):
        super().__init__(run, 10, 0)
        self.said = []

    def say(self, text):
        self.said.append(text)


_step = CompiledStep(
    jax.jit(lambda state, batch, number, two: (state + two * batch, {"number": number})),
    np.float32(2),
)


@pytest.mark.parametrize(
    ("folder", "steps", "message"),
    [
        ("profile", 2, "warning: no trace, for only 2 steps were taken"),
        ("absent/profile", 5, "warning: no trace was begun: .*No such file"),
    ],
)
def test_steps_go_on_where_nothing_is_traced(folder, steps, message, tmp_path):
    reporter, state = _Told(tmp_path), np.float32(0)
    with profiling(_step, 3, tmp_path / folder, reporter) as step:
        for number in range(steps):
            state, _ = step(state, np.float32(1), np.int32(number))
    assert float(state) == 2 * steps
    (said,) = reporter.said
    assert re.match(message, said)


def test_a_run_that_ends_early_shows_what_was_traced(tmp_path):
    reporter, state = _Told(tmp_path), np.float32(0)
    with profiling(_step, 50, tmp_path / "profile", reporter) as step:
        for number in range(5):
            state, _ = step(state, np.float32(1), np.int32(number))
    table, where = reporter.said
    assert table.splitlines()[-1].startswith("no instruction")
    assert where.startswith("trace: open ")


def test_without_steps_the_function_itself_is_called(tmp_path):
    with profiling(_step, 0, tmp_path / "profile", _Told(tmp_path)) as step:
        assert step is _step


def test_instructions_are_read_from_the_program():
    program = """HloModule jit_f, is_scheduled=true
ENTRY %main (p: f32[2]) -> f32[] {
  %fusion.1 = f32[2]{0} fusion(%p), kind=kLoop, metadata={op_name="jit(f)/head/mul" id=3}
  copy.2 = f32[2]{0} copy(%fusion.1)
  %while.3 = (s32[]) while(%t), condition=%c, body=%b, metadata={op_name="jit(f)/while"}
  ROOT %add-start.4 = f32[] add(%x, %y), metadata={op_name="jit(f)/loss/add"}
"""
    assert instruction_origins(Program(program)) == {
        "fusion.1": "jit(f)/head/mul",
        "copy.2": "",
        "add-start.4": "jit(f)/loss/add",
    }


@pytest.mark.parametrize(
    ("op_name", "stage"),
    [
        ("jit(step)/jvp(embedding)/select_n", ("embedding", False)),
        ("jit(step)/transpose(jvp(embedding))/mul", ("embedding", True)),
        ("jit(step)/transpose(jvp())/while/body/checkpoint/attention/dot", ("attention", True)),
        ("checkpoint/rematted_computation/feed_forward/tanh", ("feed_forward", True)),
        ("jit(step)/cond/branch_1_fun/optimizer/jit(clip)/min", ("optimizer", False)),
        ("jit(step)/jvp()/broadcast_in_dim", ("other", False)),
        ("", ("other", False)),
    ],
)
def test_stages_are_found_in_names(op_name, stage):
    assert stage_of(op_name) == stage


def test_moments_are_shared_among_what_runs():
    head, loss = ("head", False), ("loss", True)
    # 0-2 head; 2-4 both; 4-6 nothing; 6-9 head on one device and, from 7, on another too.
    times = share_time([(0.0, 4.0, head), (2.0, 4.0, loss), (6.0, 9.0, head), (7.0, 9.0, head)])
    assert times == {head: 2 + 1 + 3, loss: 1}


@pytest.mark.parametrize("steps", [-1, 101])
def test_a_trace_has_its_bounds(steps):
    with pytest.raises(ConfigError, match=f"profile is {steps}; it must be from 0 to 100"):
        RunOptions(profile=steps)
