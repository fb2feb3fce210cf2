"""metrics.jsonl: each record that is whole is kept, and whatever is kept can be drawn."""

import json

from harness import HOSTILE, Put, Raw, Whole, attempt, cuts, json_mutations, wholes
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxgpt.errors import JaxgptError
from jaxgpt.training.metrics import METRICS, MetricsFile, read_metrics
from jaxgpt.training.plots import plot_losses
from jaxgpt.training.run_card import last_value

SOUND = [
    {"step": 1, "loss": 5.5, "learning_rate": 0.001, "grad_norm": 1.0, "tokens_per_second": 0.0},
    {"step": 5, "loss": 5.25, "learning_rate": 0.001, "grad_norm": 1.0, "tokens_per_second": 9.5},
    {"step": 5, "validation_loss": 5.0, "validation_bits_per_byte": 2.5},
    {"step": 5, "sample": "Once upon\na time"},
    {"step": 6, "empty_batches": 1},
]
LINES = [json.dumps(record).encode() for record in SOUND]
BIG = 10**400
puts = st.builds(
    lambda name, value: Put((name,), value),
    st.sampled_from(["step", "loss", "validation_loss", "sample", "empty_batches"]),
    st.sampled_from(HOSTILE),
)
DAMAGED = [
    *(Whole(b'{"step": 1e999}'), Whole(b'{"step": "1"}'), Whole(b"[" * 100_000), Whole(b"\xff")),
    Whole(b'{"step": 1, "loss": null, "validation_loss": []}'),
    *(Put(("step",), BIG), Put(("step",), True), Put(("step",), 1.5), Put(("step",), -1)),
    *(Put(("loss",), BIG), Put(("loss",), Raw("NaN")), Put(("loss",), "1"), Put(("loss",), [])),
    *(Put(("validation_loss",), None), Put(("sample",), "\ud800"), Put(("sample",), 5)),
    *(Whole(b""), Whole(b"\0"), Whole(b'{"step": 5, "loss":'), Whole(b"\n\n")),
]


def read(folder, number, mutation):
    """The records of a file whose line `number` is damaged."""
    lines = [mutation(line) if i == number else line for i, line in enumerate(LINES)]
    (folder / METRICS).write_bytes(b"".join(line + b"\n" for line in lines))
    return attempt(lambda: read_metrics(folder), JaxgptError)


def with_examples(cases):
    """The test on each of the cases, and on mutations."""

    def decorate(test):
        for number, mutation in enumerate(cases):
            test = example(number % len(LINES), mutation)(test)
        return test

    return decorate


numbers = st.integers(0, len(LINES) - 1)
mutations = json_mutations | puts | cuts | wholes


@given(number=numbers, mutation=mutations)
@with_examples(DAMAGED)
def test_whole_records_outlive_a_damaged_line(tmp_path, number, mutation):
    records = read(tmp_path, number, mutation)
    for i, sound in enumerate(SOUND):
        assert i == number or sound in records
    assert all(type(record["step"]) is int for record in records)
    file = attempt(lambda: MetricsFile(tmp_path, 5), JaxgptError)
    assert file.records == [record for record in records if record["step"] <= 5]
    assert read_metrics(tmp_path) == file.records
    for path in tmp_path.glob(f"{METRICS}.damaged-*"):
        path.unlink()


@settings(max_examples=max(3, settings().max_examples // 100))
@given(number=numbers, mutation=mutations)
@with_examples([Put(("step",), BIG), Put(("loss",), BIG), Put(("loss",), "1"), DAMAGED[4]])
def test_what_is_read_can_be_drawn(tmp_path, number, mutation):
    records = read(tmp_path, number, mutation)
    attempt(lambda: plot_losses(records, tmp_path / "loss.png"))
    for name, spec in (("loss", ".4f"), ("validation_loss", ".4f"), ("step", ",")):
        value = last_value(records, name)
        assert value is None or format(value, spec)
