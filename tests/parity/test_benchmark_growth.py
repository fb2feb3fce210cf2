"""Steps of growing sizes: each point in a process of its own, and slopes of lines through them."""

import json
from dataclasses import replace

import pytest

from jaxgpt.benchmark import growth
from jaxgpt.benchmark.report import bars, table, to_json
from jaxgpt.benchmark.workload import get_shape
from jaxgpt.config import TrainConfig
from jaxgpt.config_file import from_dict
from jaxgpt.errors import JaxgptError, ResourceError
from jaxgpt.model.flops import flops_per_token

CONFIG = get_shape(
    "tiny",
    vocab_size=31,
    context_length=8,
    num_layers=1,
    num_heads=2,
    embed_dim=16,
    batch_size=2,
)


def test_a_power_is_found():
    assert growth.exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    assert growth.exponent([64, 128, 256], [5, 5, 5]) == pytest.approx(0)
    assert growth.exponent([1, 2, 4], [8, 4, 2]) == pytest.approx(-1)
    assert growth.exponent([1, 2, 4], [0, 1, 2]) is None


def test_a_size_grows_and_the_others_stay():
    model, wide = CONFIG.model, growth.grown(CONFIG, "width", 4).model
    assert wide == replace(model, embed_dim=64, num_heads=8)  # heads as wide as before
    assert growth.grown(CONFIG, "layers", 2) == replace(CONFIG, model=replace(model, num_layers=2))
    assert growth.grown(CONFIG, "T", 2).model == replace(model, context_length=16)
    assert growth.grown(CONFIG, "batch", 4) == replace(CONFIG, batch_size=8)
    assert all(growth.grown(CONFIG, size, 1) == CONFIG for size in growth.SIZES)


@pytest.fixture
def taken(monkeypatch):
    """The runs whose steps were taken: L T^2 seconds, 1 MB each row, compiled in the same time."""
    found = []

    def take(module, *, request, variables):
        assert module == "jaxgpt.benchmark.growth"
        assert variables == {"JAX_ENABLE_COMPILATION_CACHE": "false"}
        run = from_dict(TrainConfig(), request["config"])
        found.append(run)
        return {
            "seconds": run.model.num_layers * run.model.context_length**2,
            "bytes": 1e6 * run.batch_size,
            "compiled_bytes": 2e6,
            "compile_seconds": 1.5,
            "instructions": 100 * run.model.num_layers,
        }

    monkeypatch.setattr(growth, "run_module", take)
    return found


def _exponents(report, figure):
    rows = [row for row in report.rows if row["contender"].startswith(figure)]
    return [(round(row["exponent"], 6), round(row["arithmetic"], 2)) for row in rows]


def test_exponents_stand_beside_those_of_the_arithmetic(taken):
    told = []
    report = growth.measure_growth(CONFIG, turns=2, tell=told.append)
    assert len(taken) == 1 + 9  # the first does not count, and all four sizes begin at one point
    assert len(set(taken)) == len(told) == 9
    time = dict(zip(growth.SIZES, _exponents(report, "ms a step"), strict=True))
    assert (time["layers"][0], time["T"][0], time["batch"][0]) == (1, 2, 0)
    flops = [flops_per_token(growth.grown(CONFIG, "T", n).model) * n for n in growth.TIMES]
    assert time["T"][1] == round(growth.exponent(growth.TIMES, flops), 2)
    assert time["batch"][1] == 1
    assert 1 < time["width"][1] < 2
    assert [found for found, _ in _exponents(report, "MB in steps")] == [0, 0, 0, 1]
    assert [wanted for _, wanted in _exponents(report, "s to compile")] == [1, 0, 0, 0]
    assert report.rows[0]["sizes"] == "1, 2, 4"
    text = table(report)
    assert "ms a step, by layers" in text
    assert "operations of a step, planned memory, instructions to compile" in text
    assert len(bars(report)[0]) == 16
    assert json.loads(json.dumps(to_json(report)))["rows"][0]["points"][0]["seconds"] == 64


def test_a_point_that_fails_is_named(monkeypatch):
    def fail(*_, **__):
        raise JaxgptError("out of memory: 9 GB")

    monkeypatch.setattr(growth, "run_module", fail)
    with pytest.raises(JaxgptError, match=r"1 layers, 2 heads, .* batch 2: out of memory: 9 GB"):
        growth.measure_growth(CONFIG)


def test_what_cannot_fit_is_refused_before_any_step(taken):
    with pytest.raises(ResourceError, match="a step takes"):
        growth.measure_growth(replace(CONFIG, batch_size=10**8))
    assert taken == []


@pytest.mark.whole_run
def test_a_process_tells_what_its_steps_took(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    wide = replace(CONFIG, model=replace(CONFIG.model, vocab_size=4096, embed_dim=512))
    points = [growth._point(run, 2, "all") for run in (CONFIG, wide)]
    for point in points:
        assert 0 < point["seconds"] < point["compile_seconds"] + 10
        assert point["host_peak_bytes"] > 50e6
    small, large = (point["compiled_bytes"] for point in points)
    assert 10 * small < large
    # The parameters, their gradient and two running means are there at once.
    assert points[1]["bytes"] > 0.7 * 16 * 4096 * 512
    # Sizes are numbers in the program: 2% more instructions for 130 times the vocabulary.
    assert points[1]["instructions"] == pytest.approx(points[0]["instructions"], rel=0.05)
