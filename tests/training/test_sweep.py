"""Each lane of a sweep is the run that `pretrain` would make of it."""

import math
from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxgpt.config import TrainConfig
from jaxgpt.data.batches import SlidingWindows
from jaxgpt.errors import ConfigError
from jaxgpt.training.lanes import shares, together
from jaxgpt.training.pretrain import pretrain
from jaxgpt.training.sweep import sweep

SEEDS, RATES = (0, 3), (1e-3, 3e-3)
# A rounding is 6e-8 of a loss of 5.5 nats, and of a gradient at most 1e-3 of an update, as in
# test_mesh.py: over 4 steps of some 1e-3 in 6,000 parameters whose gradient is of norm 1.
ROUNDING = 4e-5


@pytest.fixture(scope="module")
def config(small_run):
    config = small_run(steps=4, evaluate_every=4, checkpoint_every=4, sample_every=4)
    # Muon takes the matrices of the blocks, AdamW the rest.
    return replace(config, optimizer=replace(config.optimizer, optimizer="muon"))


@pytest.fixture(scope="module")
def swept(config):
    return {
        mode: sweep(config, seeds=SEEDS, learning_rates=RATES, mode=mode)
        for mode in ("loop", "vmap")
    }


@pytest.mark.whole_run
@pytest.mark.parametrize("place", [0, 3])
def test_a_lane_is_a_run_of_its_own(config, swept, tmp_path, place):
    rate, seed = RATES[place // 2], SEEDS[place % 2]
    run = replace(config, seed=seed, optimizer=replace(config.optimizer, learning_rate=rate))
    records = pretrain(run, tmp_path / "run").records
    lane = swept["loop"].lanes[place]
    assert (lane.seed, lane.learning_rate, lane.steps) == (seed, rate, 4)
    assert list(lane.losses) == [record["loss"] for record in records if "loss" in record]
    for name in ("loss", "validation_loss", "validation_bits_per_byte"):
        assert getattr(lane, name) == [record[name] for record in records if name in record][-1]


@pytest.mark.whole_run
def test_one_program_gives_what_turns_give_but_for_rounding(swept):
    assert [result.mode for result in swept.values()] == ["loop", "vmap"]
    for one, other in zip(*(result.lanes for result in swept.values()), strict=True):
        assert (one.seed, one.learning_rate, 4) == (other.seed, other.learning_rate, other.steps)
        np.testing.assert_allclose(one.losses, other.losses, rtol=0, atol=ROUNDING)
        assert one.validation_loss == pytest.approx(other.validation_loss, rel=0, abs=ROUNDING)


def test_lanes_lie_across_as_many_devices_as_share_them_evenly(config):
    assert [shares(count) for count in (1, 2, 4, 6, 11, 16)] == [1, 2, 4, 6, 1, 8]
    model = replace(config.model, vocab_size=256)
    runs = [replace(config, seed=seed, model=model) for seed in range(4)]
    state = together(runs, SlidingWindows(np.arange(99), 16), shardings=None).state
    for leaf in jax.tree.leaves(state):
        assert [shard.data.shape[0] for shard in leaf.addressable_shards] == [1] * 4


@pytest.mark.whole_run
def test_the_faster_of_the_first_steps_goes_on_and_is_named(config, capsys):
    result = sweep(config, seeds=SEEDS, learning_rates=RATES)
    assert "a step of 4 lanes takes" in (said := capsys.readouterr().err)
    assert said.rstrip().endswith(f"({result.mode})")
    assert [len(lane.losses) for lane in result.lanes] == [4] * 4


@pytest.mark.slow
def test_a_lane_that_does_not_stay_finite_is_shown_and_stops_no_other(config, swept):
    with pytest.warns(UserWarning, match="seldom learns above"):
        result = sweep(config, seeds=SEEDS, learning_rates=(1e30, RATES[0]), mode="vmap")
    burst, _, *sound = result.lanes
    assert burst.steps < 4
    assert math.isnan(burst.loss)
    assert math.isnan(burst.validation_loss)
    for lane, alone in zip(sound, swept["vmap"].lanes, strict=False):
        np.testing.assert_allclose(lane.losses, alone.losses, rtol=0, atol=ROUNDING)
    assert result.table().splitlines()[1].split()[:4] == ["0", "1e+30", str(burst.steps), "nan"]


@pytest.mark.whole_run
def test_the_lanes_are_a_table_and_comma_separated_values(swept):
    head, line, *_ = swept["loop"].table().splitlines()
    assert head.split("  ")[0] == "seed"
    assert len(head) == len(line)
    names, values, *_ = (row.split(",") for row in swept["loop"].csv().splitlines())
    assert names[:2] + names[3:4] == ["seed", "learning_rate", "loss"]
    assert float(values[3]) == swept["loop"].lanes[0].loss


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"seeds": ()}, "seeds is empty"),
        ({"seeds": (1, 1)}, r"seeds has \[1\] more than once"),
        ({"seeds": (-1,)}, "seed is -1"),
        ({"learning_rates": (0.0,)}, "learning_rate is 0.0; it must be above 0"),
    ],
)
def test_what_cannot_be_swept_is_refused(given, complaint):
    with pytest.raises(ConfigError, match=complaint):
        sweep(TrainConfig(), **given)


def test_a_sweep_begins_anew():
    with pytest.raises(ConfigError, match="init_from is folder; a sweep begins anew, drop it"):
        sweep(TrainConfig(init_from="folder"))
