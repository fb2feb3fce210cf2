"""A block of one's own, and a leaf that it adds: trained, shared, saved, loaded, adapted."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from jaxgpt.config_file import to_dict
from jaxgpt.errors import CheckpointError, ConfigError
from jaxgpt.finetuning.lora import init_adapters, lora_loss, merge
from jaxgpt.finetuning.settings import LoraConfig
from jaxgpt.generation.decoding import generate
from jaxgpt.generation.settings import SamplingConfig
from jaxgpt.huggingface.weights import save_gpt2
from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import count_parameters, init_params
from jaxgpt.model.schema import BLOCK_LEAVES, Leaf, rows_of
from jaxgpt.model.transformer import STANDARD, Block, attend, block, with_block
from jaxgpt.presets import get_preset
from jaxgpt.run_config import OptimizerConfig, RunOptions
from jaxgpt.tokenization.tokenizer import ByteTokenizer
from jaxgpt.training.checkpoint import LoadedModel, load_model, save_model
from jaxgpt.training.compiled_step import make_step
from jaxgpt.training.loss import next_token_loss
from jaxgpt.training.mesh import make_mesh, state_shardings
from jaxgpt.training.muon import labels
from jaxgpt.training.optimizer import decay_mask
from jaxgpt.training.own_parts import use_block
from jaxgpt.training.run_folder import check_folder
from jaxgpt.training.run_state import begin, state_template

TINY = get_preset("tiny")
SHAPE = dataclasses.replace(
    TINY.model, vocab_size=256, context_length=8, embed_dim=16, num_layers=2
)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(256, size=(8, 9)))
BATCH = TOKENS[:, :-1], TOKENS[:, 1:]
ROW = Leaf("blocks.attn.gain", "H K", "ones", decays=True, sharded="K", adapters=("attn.gain",))


def scaled(x, *, gain, **rest):
    """Attention with a learned scale on its output."""
    y, cache = attend(x, **rest)
    return y * gain.reshape(-1), cache


def gained(x, **arguments):
    return block(x, **arguments, attend=scaled)


GAINED = Block(gained, leaves=(*BLOCK_LEAVES, ROW))
CONFIG = with_block(SHAPE, GAINED)


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(CONFIG)


def _gain(tree):
    return tree["blocks"]["attn"]["gain"]


def _with_gain(params, **gain):
    attn = {name: leaf for name, leaf in params["blocks"]["attn"].items() if name != "gain"}
    return params | {"blocks": params["blocks"] | {"attn": attn | gain}}


def test_a_gain_of_1_is_the_standard_block_and_another_is_not(params):
    own = jax.jit(lambda params: GPT(SHAPE, params, block=GAINED)(BATCH[0]))
    logits = jax.jit(lambda params: GPT(SHAPE, params)(BATCH[0]))(_with_gain(params))
    ones = _with_gain(params, gain=jnp.ones_like(_gain(params)))
    np.testing.assert_allclose(own(ones), logits, rtol=1e-5, atol=1e-5)
    assert (np.abs(own(params) - logits) > 1e-3).any()
    assert count_parameters(CONFIG) == count_parameters(SHAPE) + 2 * 16
    start = jax.jit(lambda: _gain(init_params(CONFIG, jax.random.key(0))))()
    np.testing.assert_array_equal(start, np.ones((2, 2, 8)))


@pytest.mark.slow
def test_the_leaf_is_trained_and_lies_across_the_devices(params):
    config = dataclasses.replace(
        TINY,
        model=CONFIG,
        optimizer=OptimizerConfig(optimizer="muon", warmup_steps=0),
        batch_size=8,
        fsdp=8,
    )
    mesh = make_mesh(config)
    template = state_template(params, config, mesh)
    state = begin(jax.tree.map(jnp.copy, params), config, template)
    assert _gain(state.params).sharding.spec == PartitionSpec(None, None, "fsdp")
    kinds = _gain(labels(params, rows_of(CONFIG))), _gain(labels(params))
    assert kinds == ("muon", "adamw")
    after, _ = make_step(config, mesh)(state, BATCH, np.int32(0))
    assert (np.asarray(_gain(after.params)) != _gain(params)).all()
    assert _gain(after.params).sharding == _gain(template.params).sharding


def test_the_leaf_decays_by_its_row(params):
    assert _gain(decay_mask(params, rows_of(CONFIG)))
    assert not _gain(decay_mask(params))
    sharding = state_shardings(params, make_mesh(dataclasses.replace(TINY, batch_size=8)))
    assert _gain(sharding).spec == PartitionSpec(None, None, None)


def test_the_leaf_is_saved_and_loaded(params, tmp_path):
    config = dataclasses.replace(TINY, model=CONFIG)
    save_model(tmp_path / "a", LoadedModel(CONFIG, params, ByteTokenizer(), 0, config))
    assert '"block": "test_block:gained"' in (tmp_path / "a/config.json").read_text()
    found = load_model(tmp_path / "a", block=GAINED)
    assert found.config == found.train_config.model == CONFIG
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    with pytest.raises(CheckpointError, match="a was trained with the block test_block:gained, no"):
        load_model(tmp_path / "a")
    with pytest.raises(CheckpointError, match="as block=, not test_block:scaled"):
        load_model(tmp_path / "a", block=scaled)
    config = dataclasses.replace(TINY, model=SHAPE)
    save_model(tmp_path / "b", LoadedModel(SHAPE, _with_gain(params), ByteTokenizer(), 0, config))
    with pytest.raises(CheckpointError, match="with the standard block; leave block out, not test"):
        load_model(tmp_path / "b", block=GAINED)


@pytest.mark.slow
def test_the_leaf_has_adapters(params):
    rows, lora = rows_of(CONFIG), LoraConfig(rank=2, targets=("query", "attn.gain"))
    adapters = init_adapters(params, lora, jax.random.key(0), rows)
    assert jax.tree.map(jnp.shape, adapters["attn.gain"]) == {"A": (2, 2, 2), "B": (2, 2, 8)}
    loss_fn = lora_loss(next_token_loss(CONFIG), params, lora, rows)
    grads = jax.jit(jax.grad(lambda given: loss_fn(given, BATCH, None)[0]))(adapters)
    trained = optax.apply_updates(adapters, jax.tree.map(lambda g: -1e-3 * g, grads))
    assert (_gain(merge(params, trained, lora, rows)) != _gain(params)).any()
    with pytest.raises(ConfigError, match=r"targets has attn\.gain; it must be some of query, key"):
        init_adapters(params, lora, jax.random.key(0))


@pytest.mark.slow
def test_a_block_is_scanned_unrolled_and_recomputed(params):
    def gradient(**how):
        def loss(params):
            return jnp.sin(GPT(CONFIG, params).hidden(BATCH[0], **how)).sum()

        return jax.jit(jax.grad(loss))(params)

    scanned = gradient()
    assert (_gain(scanned) != 0).all()
    near = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(near, gradient(unroll=2, remat=True), scanned)
    jax.tree.map(near, gradient(record=lambda name, x: x), scanned)  # layer after layer


def test_a_block_decodes_with_its_cache(params):
    prompts = [TOKENS[0, :2].tolist(), TOKENS[1, :5].tolist()]
    greedy = {"sampling": SamplingConfig(temperature=0.0), "max_new_tokens": 3}
    texts = generate(CONFIG, params, prompts, **greedy)
    rows = [(prompt + text + [0] * 8)[:8] for prompt, text in zip(prompts, texts, strict=True)]
    likeliest = jax.jit(lambda rows: GPT(CONFIG, params)(rows).argmax(-1))(jnp.array(rows))
    assert texts == [likeliest[0, 1:4].tolist(), likeliest[1, 4:7].tolist()]


def test_a_norm_of_ones_own(params):
    def rms_norm(x, *, scale, epsilon, **_):
        return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + epsilon) * scale

    def normed(x, **arguments):
        return block(x, **arguments, norm=rms_norm)

    logits = jax.jit(
        lambda params, block: GPT(SHAPE, params, block=block)(BATCH[0]), static_argnames="block"
    )
    given = _with_gain(params)
    assert (np.abs(logits(given, block=normed) - logits(given, block=block)) > 1e-3).any()


def test_the_standard_block_is_no_block_of_ones_own():
    assert with_block(CONFIG, block) == with_block(CONFIG, STANDARD) == SHAPE


def test_a_block_that_cannot_be_recorded_or_has_other_rows_is_refused():
    with pytest.raises(ConfigError, match="has no name to record; give Block a name"):
        Block(partial(block, num_kv_heads=1))
    assert str(Block(partial(block, num_kv_heads=1), name="shared")) == "shared"
    with pytest.raises(ConfigError, match=r"paths begin with blocks\., not gain"):
        Block(gained, leaves=(Leaf("gain", "D", "ones"),))


def test_what_gpt2_has_no_setting_for_is_not_converted(params, tmp_path):
    with pytest.raises(
        CheckpointError, match="nearest is gpt2: its block is test_block:gained; it stays"
    ):
        save_gpt2(tmp_path / "own", CONFIG, params)
    with pytest.raises(
        CheckpointError, match="nearest is gpt2: positions is none, not learned; it stays here"
    ):
        save_gpt2(tmp_path / "none", dataclasses.replace(SHAPE, positions="none"), params)
    assert not list(tmp_path.iterdir())


def test_a_run_goes_on_with_the_block_that_it_began_with(tmp_path):
    (tmp_path / "run/checkpoints/00000001").mkdir(parents=True)
    own = use_block(dataclasses.replace(TINY, model=SHAPE), GAINED)
    (tmp_path / "run/config.json").write_text(json.dumps(to_dict(own)))
    check_folder(tmp_path / "run", own, RunOptions())
    due = r"\(model.block: test_block:gained -> standard\); pass the block that it was trained with"
    with pytest.raises(CheckpointError, match=due):
        check_folder(tmp_path / "run", dataclasses.replace(TINY, model=SHAPE), RunOptions())
