"""Where a step's time goes: a trace of a few steps, and a table by the stages of the code.

A trace names the instructions of the compiled program, and the program's text says of each from
which `jax.named_scope` it came. The backward pass is the transpose of it.
"""

import gzip
import json
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from jaxgpt.data.ownership import unlisted_names
from jaxgpt.training.compiled_step import CompiledStep
from jaxgpt.training.program import HOLLOW, Program
from jaxgpt.training.report import Reporter
from jaxgpt.training.run_contents import TRACE as TRACE_FILES

STAGES = ("embedding", "attention", "feed_forward", "norm", "head", "loss", "optimizer")
TRACE = "trace.json.gz"
_OTHER, _IDLE = "other", "no instruction"
_WARM_UP = 3  # steps: the first compiles, and the next two find memory and caches cold

Stage = tuple[str, bool]
"""A name of `STAGES`, and whether it is in the backward pass."""


@contextmanager
def profiling(
    step_fn: CompiledStep, steps: int, folder: Path, reporter: Reporter
) -> Iterator[Callable[..., Any]]:
    """The `step_fn`, of which `steps` calls are traced into `folder`, after the first three.

    A traced step is waited for, so that each stands by itself in the trace; its result is the same.
    Afterwards the reporter says where the trace is and where the time goes.
    """
    if not steps:
        yield step_fn
        return
    profiler = _Profiler(step_fn, steps, folder, reporter)
    try:
        yield profiler
    finally:
        profiler.finish()


class _Profiler:
    """A step function that counts its calls, and traces some."""

    def __init__(self, step_fn: CompiledStep, steps: int, folder: Path, reporter: Reporter):
        self._step_fn, self._folder, self._reporter = step_fn, folder, reporter
        self._program: Any = None
        self._calls, self._last = 0, _WARM_UP + steps
        self._tracing = False

    def __call__(self, state: Any, batch: Any, number: Any, *rest: Any) -> Any:
        if self._program is None:  # compiled by hand, for its text is needed
            self._program = self._step_fn.lower(state, batch, number, *rest).compile()
            self._step_fn = replace(self._step_fn, program=self._program)
        if self._calls == _WARM_UP:
            jax.block_until_ready(state)
            self._start()
        self._calls += 1
        if not self._tracing:
            return self._step_fn(state, batch, number, *rest)
        with jax.profiler.StepTraceAnnotation("step", step_num=int(number) + 1):
            result = jax.block_until_ready(self._step_fn(state, batch, number, *rest))
        if self._calls == self._last:
            self.finish()
        return result

    def _start(self) -> None:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # every call of a function, which hides the rest
        with self._reporter.pause():
            try:
                self._clear()
                jax.profiler.start_trace(self._folder, profiler_options=options)
                self._tracing = True
            except (OSError, RuntimeError) as error:
                self._reporter.say(f"warning: no trace was begun: {error}")

    def _clear(self) -> None:
        """Make the folder anew; raises FileExistsError if it holds more than an earlier trace."""
        if self._folder.exists():
            strangers = unlisted_names(self._folder, re.compile(TRACE_FILES).fullmatch)
            if strangers:
                raise FileExistsError(f"{self._folder} holds {strangers[0]}; move it away")
            shutil.rmtree(self._folder)
        self._folder.mkdir()

    def finish(self) -> None:
        """Write and show what was traced; a trace is not worth the end of a run."""
        if self._calls <= _WARM_UP:
            self._reporter.say(f"warning: no trace, for only {self._calls} steps were taken")
        if not self._tracing:
            return
        self._tracing = False
        with self._reporter.pause():
            try:
                jax.profiler.stop_trace()
                self._reporter.say(read_trace(self._folder, self._program.as_text()))
                self._reporter.say(
                    f"trace: open {self._folder / TRACE} at https://ui.perfetto.dev, "
                    f"or give {self._folder} to TensorBoard or XProf"
                )
            except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
                self._reporter.say(f"warning: the trace could not be read: {error}")


def read_trace(folder: Path, program: str) -> str:
    """The table of the steps traced in `folder`, whose events are given the names of their stages.

    `program` is the text of the compiled step. The named trace is written as `folder/trace.json.gz`
    beside the one that was read. Raises ValueError if there is no trace with a step and its
    instructions in it; of more than a million events some are lost.
    """
    path = next(folder.rglob("*.trace.json.gz"), None)
    if path is None:
        raise ValueError(f"{folder} has no trace in it")
    with gzip.open(path) as file:
        trace = json.load(file)
    compiled = Program(program)
    origins = instruction_origins(compiled)
    module = program.split(maxsplit=2)[1].rstrip(",")
    events, steps = [], []
    for event in trace["traceEvents"]:
        args = event.get("args", {})
        if event.get("name") == "step":
            steps.append(float(event["dur"]))
        elif args.get("hlo_module") == module and args.get("hlo_op") in origins:
            args["op_name"] = origins[args["hlo_op"]]
            stage, backward = stage_of(args["op_name"])
            event["name"] = f"{stage} backward" if backward else stage
            begin = float(event["ts"])
            events.append((begin, begin + event["dur"], (stage, backward)))
    if not steps or not events:
        what = "names no instruction of the step" if steps else "has no step in it; trace fewer"
        raise ValueError(f"{path} {what}")
    with gzip.open(folder / TRACE, "wt") as file:
        json.dump(trace, file)
    return format_table(share_time(events), steps, bytes_moved(compiled))


def instruction_origins(program: Program) -> dict[str, str]:
    """Instruction -> where in the code it is from, as its `op_name` says, of a compiled program.

    Loops and calls are left out: their time is that of the instructions in them.
    """
    inside = (each for part in program.computations.values() for each in part.values())
    return {each.name: each.origin for each in inside if each.kind not in HOLLOW}


def bytes_moved(program: Program) -> dict[Stage, int]:
    """Bytes that a run of a compiled program reads and writes in memory, by stage."""
    moved: dict[Stage, int] = defaultdict(int)
    for each, count in program.moves():
        moved[stage_of(each.origin)] += count
    return moved


def stage_of(op_name: str) -> Stage:
    """The stage in an `op_name` such as "jit(step)/transpose(jvp(head))/mul", and if backward."""
    scopes = re.findall(r"\w+", op_name)
    backward = "transpose(" in op_name or "rematted_computation" in scopes
    return next((scope for scope in scopes if scope in STAGES), _OTHER), backward


def share_time(events: Iterable[tuple[float, float, Stage]]) -> dict[Stage, float]:
    """Microseconds of each stage, from events (begin, end, stage) on all threads and devices.

    Each moment is shared equally among the events that are under way, so that the sum is the time
    in which there are any.
    """
    ends = [end for begin, end, stage in events for end in ((begin, 1, stage), (end, -1, stage))]
    times: dict[Stage, float] = defaultdict(float)
    running, before = Counter[Stage](), 0.0
    for time, turn, stage in sorted(ends):
        total = sum(running.values())
        for name, count in running.items():
            if count:
                times[name] += (time - before) * count / total
        running[stage] += turn
        before = time
    return times


def format_table(
    times: Mapping[Stage, float], steps: list[float], moved: Mapping[Stage, int]
) -> str:
    """Milliseconds of a step by stage, forward and backward, the share of each, and what it moves.

    "other" is under no stage's name, such as the arrays that the layers' loop keeps for the
    backward pass; "no instruction" is when none runs: the host's time, and memory being made ready.
    `steps` are the whole steps' microseconds, `moved` the bytes that a step reads and writes.
    """
    whole = rest = sum(steps) / len(steps) / 1000
    line = "{:<20} {:>9} {:>9} {:>7} {:>13}".format
    moved_by_all = f"of {sum(moved.values()) / 1e6:,.0f} MB"
    rows = [line(f"{whole:.1f} ms a step", "forward", "backward", "share", moved_by_all)]
    for stage in (*STAGES, _OTHER):
        both = (stage, False), (stage, True)
        ways = [times.get(way, 0.0) / len(steps) / 1000 for way in both]
        rest -= sum(ways)
        if sum(ways):
            megabytes = sum(moved.get(way, 0) for way in both) / 1e6
            shown = (*(f"{way:.2f}" for way in ways), f"{sum(ways) / whole:.1%}")
            rows.append(line(stage, *shown, f"{megabytes:,.0f}"))
    return "\n".join([*rows, line(_IDLE, f"{rest:.2f}", "", f"{rest / whole:.1%}", "")])
