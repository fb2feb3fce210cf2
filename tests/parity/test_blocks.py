"""GPT-2's block beside today's: each row differs in what it names, at equal parameters."""

import importlib
import json
from dataclasses import replace

import pytest

from jaxgpt.benchmark import blocks
from jaxgpt.benchmark.blocks import BLOCKS, measure_blocks, of_equal_size
from jaxgpt.benchmark.report import bars, table, to_json
from jaxgpt.benchmark.turns import Turns
from jaxgpt.benchmark.workload import with_steps
from jaxgpt.errors import ConfigError
from jaxgpt.model.parameters import count_parameters
from jaxgpt.presets import get_preset
from jaxgpt.training.pretrain import pretrain


@pytest.fixture
def config():
    config = with_steps(get_preset("tiny"), 4)
    model = replace(config.model, context_length=16, num_layers=1)
    data = replace(config.data, stories_bytes=10_000)
    return replace(config, model=model, data=data, batch_size=8)


@pytest.fixture
def half_as_fast(monkeypatch):
    """A machine on which a step of Llama's block takes twice as long as one of GPT-2's."""
    seconds = {"gpt2": [1.0], "llama": [2.0]}
    monkeypatch.setattr(blocks, "_time", lambda lanes: Turns(seconds, {}, 0.0, 3.0))


@pytest.mark.parametrize(("vocab_size", "preset"), [(257, "tiny"), (2048, "small")])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_row_differs_in_its_parts_alone_and_has_as_many_parameters(name, vocab_size, preset):
    model = replace(get_preset(preset).model, vocab_size=vocab_size)
    changed = of_equal_size(model, name)
    differ = {field for field, value in vars(model).items() if getattr(changed, field) != value}
    assert differ - {"hidden_dim"} == set(BLOCKS[name])
    assert count_parameters(changed) == pytest.approx(count_parameters(model), rel=0.01)


@pytest.mark.whole_run
def test_rows_take_gpt2s_time_and_gpt2s_is_the_run_of_pretrain(config, half_as_fast, tmp_path):
    report = measure_blocks(config, ["llama"], seeds=(0, 1))
    gpt2, llama = report.rows
    assert [(row["contender"], row["steps"]) for row in report.rows] == [("gpt2", 4), ("llama", 2)]
    assert llama["step_ratio"] == 2
    records = pretrain(config, tmp_path / "run").records
    assert gpt2["bits_by_seed"][0] == records[-1]["validation_bits_per_byte"]
    first, second = gpt2["bits_by_seed"]
    assert gpt2["spread"] == abs(first - second) > 0
    floor = records[-1]["entropy_bits_per_byte"]
    assert gpt2["excess"] == gpt2["bits_per_byte"] - floor
    assert gpt2["excess_share"] == pytest.approx(gpt2["excess"] / floor)
    assert list(bars(report)[0]) == ["gpt2", "llama"]


@pytest.mark.whole_run
def test_a_row_that_diverged_is_unknown_and_the_others_stay(config, half_as_fast, monkeypatch):
    monkeypatch.setattr(blocks, "validation", lambda *_: lambda state: {})
    report = measure_blocks(config, ["llama"])
    heading, *rows = table(report).splitlines()[3:6]
    for column in ("parameters", "F", "time / gpt2", "steps", "bits per byte"):
        assert column in heading
    assert all(row.endswith("unknown") for row in rows)
    assert bars(report)[0] == {}
    json.dumps(to_json(report), allow_nan=False)


@pytest.mark.whole_run
def test_the_command_prints_the_table(tmp_path, capsys):
    out = tmp_path / "blocks.json"
    script = importlib.import_module("jaxgpt.commands.benchmark")
    flags = ["--shape", "tiny", "--steps", "2", "--contenders", "rope", "--out", str(out)]
    script.main(["blocks", *flags])
    assert "each row in gpt2's time" in capsys.readouterr().out
    rows = json.loads(out.read_text())["rows"]
    assert [row["contender"] for row in rows] == ["gpt2", "rope"]
    assert rows[0]["step_ratio"] == 1
    assert all(len(row["turns_ms"]) == 10 for row in rows)


def test_an_unknown_row_and_a_seed_twice_are_refused(config):
    with pytest.raises(ConfigError, match="no block is called gpt3; there are gpt2, rms-norm"):
        measure_blocks(config, ["gpt3"])
    with pytest.raises(ConfigError, match="more than once"):
        measure_blocks(config, seeds=(1, 1))
