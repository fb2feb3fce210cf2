"""A step that is not finite is taken again, and the point where that begins is named."""

import importlib
import math
import re
import shutil
import sys
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import ModelConfig
from jaxgpt.errors import CheckpointError, ConfigError, NonFiniteError
from jaxgpt.model.activations import recorded_names
from jaxgpt.model.nested import flatten, nest
from jaxgpt.model.parameters import parameter_shapes
from jaxgpt.presets import get_preset
from jaxgpt.run_config import RunOptions
from jaxgpt.tokenization.tokenizer import load_tokenizer
from jaxgpt.training.checkpoint import read_config, restore_latest, save
from jaxgpt.training.kept import checkpoints
from jaxgpt.training.loss import next_token_loss
from jaxgpt.training.mesh import make_mesh
from jaxgpt.training.pretrain import pretrain
from jaxgpt.training.replay import Replay, in_order, look_at, replay, to_text
from jaxgpt.training.run_state import state_template

SMALL = ModelConfig(vocab_size=17, context_length=8, num_layers=2, num_heads=2, embed_dim=8)
CONFIG = replace(get_preset("tiny"), model=SMALL, batch_size=4)


def batch(rows=4):
    tokens = np.random.default_rng(0).integers(0, 17, (rows, 9)).astype(np.int32)
    return jnp.asarray(tokens[:, :-1]), jnp.asarray(tokens[:, 1:])


@cache
def program(config, loss_fn=None):
    names = []
    loss_fn = loss_fn or next_token_loss(config.model, config.compute)
    return jax.jit(partial(look_at, config, loss_fn, names)), names


def look(params, loss_fn=None, **changes):
    """The replay of a step on these parameters."""
    compiled, names = program(replace(CONFIG, **changes), loss_fn)
    found = jax.device_get(compiled(params, batch(), np.int32(0), np.uint32(0)))
    return Replay(1, 0, 0, math.nan, math.nan, in_order(found, names))


def changed(params, name, layer, factor):
    leaves = flatten(params)
    leaves[name] = leaves[name].at[layer].multiply(factor)
    return nest(leaves)


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(SMALL)


@pytest.mark.whole_run
def test_all_is_looked_at_in_its_order(params):
    found = look(params)
    assert found.first is None
    assert list(found.largest["activations"]) == recorded_names(SMALL)
    ours = list(found.largest["parameters"])
    assert ours[0].startswith("embed.")
    assert ours[-1].startswith("norm.")
    assert sum(name.startswith("blocks.1.") for name in ours) == 12
    assert list(found.largest["gradient"]) == ours[::-1]
    assert found.largest["parameters"]["blocks.1.attn.qkv.weight"] == pytest.approx(
        float(jnp.abs(params["blocks"]["attn"]["qkv"]["weight"][1]).max())
    )
    loss = next_token_loss(SMALL)
    grads = jax.grad(lambda params: loss(params, batch(), jax.random.key(0))[0] / 32)(params)
    assert found.largest["gradient"]["blocks.0.mlp.up.bias"] == pytest.approx(
        float(jnp.abs(grads["blocks"]["mlp"]["up"]["bias"][0]).max()), rel=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"compute_dtype": "bfloat16", "gradient_accumulation": 2}])
@pytest.mark.parametrize(
    ("planted", "born"),
    [
        ([("blocks.attn.qkv.weight", 1, 1e22)], ("activations", "blocks.1.attn.scores")),
        (
            [("blocks.norm2.scale", 0, 1e20), ("blocks.mlp.up.weight", 0, 1e22)],
            ("activations", "blocks.0.mlp.up"),
        ),
        ([("embed.tokens", ..., 1e3), ("norm.scale", ..., 1e38)], ("activations", "logits")),
        ([("blocks.norm2.bias", 1, math.nan)], ("parameters", "blocks.1.norm2.bias")),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_the_point_where_it_overflows_is_named(params, planted, born, changes):
    for name, layer, factor in planted:
        params = changed(params, name, layer, factor)
    found = look(params, **changes)
    assert found.first == born
    lines = to_text(found).splitlines()
    assert sum("<- first" in line for line in lines) == 1
    assert born[1] in lines[-1]


@pytest.mark.slow
def test_what_only_the_loss_or_the_gradient_makes_is_told_apart(params):
    def of(odd):
        def loss(params, batch, rng):
            nats, count = next_token_loss(SMALL)(params, batch, rng)
            return nats + odd(params["norm"]["bias"] * 0).sum(), count

        return loss

    assert look(params, of(jnp.log)).first == ("loss", "loss")
    found = look(params, of(jnp.sqrt))
    assert found.first == ("gradient", "norm.bias")
    assert to_text(found).endswith("is born in the backward pass, in the gradient of norm.bias")


def contents(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.whole_run
def test_a_step_of_a_run_is_reached_from_the_checkpoint_before(small_run, tmp_path, capsys):
    model = replace(small_run().model, num_layers=2, dropout=0.0)
    config, run = small_run(model=model, keep_checkpoints=3), tmp_path / "run"
    records = pretrain(config, run).records
    before = contents(run)
    for step, begun in ((1, 0), (7, 4), (12, 8)):
        found = replay(config, run, step)
        (loss,) = (item["loss"] for item in records if item["step"] == step and "loss" in item)
        assert (found.step, found.begun, found.first) == (step, begun, None)
        assert found.loss == loss
        assert found.largest["loss"]["loss"] == pytest.approx(loss, rel=1e-5)
    assert contents(run) == before
    with pytest.raises(ConfigError, match="replay is 13"):
        replay(config, run, 13)
    with pytest.raises(CheckpointError, match="holds a run with other settings"):
        replay(replace(config, seed=1), run, 7)
    # A damaged one is passed over and left where it is, and so are damaged tokens.
    (run / "checkpoints/00000004/config.json").write_text("{}")
    (run / "tokens/manifest.json").write_text("{}")
    before = contents(run)
    assert replay(config, run, 7).begun == 0
    assert contents(run) == before
    assert "one before it is taken" in capsys.readouterr().err


@pytest.mark.whole_run
def test_a_run_that_overflows_names_the_point(small_run, tmp_path):
    model = replace(small_run().model, num_layers=2, dropout=0.0)
    config, run = small_run(model=model), tmp_path / "run"
    pretrain(config, run)
    # The checkpoint of step 12 with a layer whose scores are beyond float32.
    settled = read_config(checkpoints(run)[-1] / "config.json")
    longer = replace(config, steps=16)
    template = state_template(parameter_shapes(settled.model), settled, make_mesh(config))
    restored = restore_latest(run, template)
    params = changed(restored.state.params, "blocks.attn.qkv.weight", 1, 1e22)
    tokenizer = load_tokenizer(run / "tokens/tokenizer")
    shutil.rmtree(checkpoints(run)[-1])
    save(
        *(run, replace(restored.state, params=params), settled, tokenizer, restored.data),
        rows=restored.rows,
    )
    allowed = RunOptions(allow_config_change=True)
    with pytest.raises(NonFiniteError, match="batch is number 12 of seed 0") as caught:
        pretrain(longer, run, allowed)
    before = contents(run)
    found = replay(longer, run, caught.value.step, allowed)
    assert (found.begun, found.step) == (12, 13)
    assert found.first == ("activations", "blocks.1.attn.scores")
    assert math.isnan(found.loss)
    with pytest.raises(NonFiniteError, match="never comes to step 14; replay 13"):
        replay(longer, run, 14, allowed)
    assert contents(run) == before


@pytest.mark.whole_run
def test_a_run_that_came_to_no_checkpoint_is_replayed_from_its_beginning(small_run, tmp_path):
    config = small_run(evaluate_every=12, checkpoint_every=12)
    optimizer = replace(config.optimizer, schedule="constant", gradient_clip="none")
    # Not through the constructor, which warns of such a rate.
    object.__setattr__(optimizer, "learning_rate", 1e30)
    config, run = replace(config, optimizer=optimizer), tmp_path / "run"
    with pytest.raises(NonFiniteError) as caught:
        pretrain(config, run)
    assert not run.exists()
    found = replay(config, run, caught.value.step)
    kind, name = found.first
    assert (found.begun, kind) == (0, "activations")
    assert name in recorded_names(replace(config.model, vocab_size=256))
    assert not run.exists()


@pytest.mark.whole_run
@pytest.mark.filterwarnings("ignore:learning_rate is")
def test_a_run_that_stops_says_the_command_that_replays_it(tmp_path, monkeypatch, capsys):
    cli, train = (importlib.import_module(f"jaxgpt.commands.{name}") for name in ("cli", "train"))
    monkeypatch.chdir(tmp_path)
    shape = "--num-layers 1 --embed-dim 16 --context-length 16 --batch-size 8 --stories-bytes 20000"
    rate = "--learning-rate 1e30 --schedule constant --warmup-steps 0 --gradient-clip none"
    argv = f"tiny --out run --overwrite --steps 9 {shape} {rate}".split()
    monkeypatch.setattr(sys, "argv", ["scripts/train.py", *argv])
    with pytest.raises(SystemExit, match="5"):
        cli.run(train.main, argv)
    said = capsys.readouterr().err
    again = re.search(r"Where it comes from: .*scripts/train\.py (tiny .* --replay \d)\n$", said)
    assert again
    assert "--overwrite" not in again[1]
    cli.run(train.main, again[1].split())
    out = capsys.readouterr().out
    assert out.count("<- first") == 1
    assert "is born in the forward pass" in out.splitlines()[-1]
    assert not (tmp_path / "run").exists()
