"""Adapters change nothing at first, then only what they are for; the base is never touched."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import ModelConfig, TrainConfig
from jaxgpt.errors import CheckpointError, ConfigError
from jaxgpt.files import seal
from jaxgpt.finetuning.lora import fingerprint, init_adapters, lora_loss, merge
from jaxgpt.finetuning.lora_file import (
    ADAPTERS,
    RECORD,
    are_whole,
    load_adapters,
    save_adapters,
)
from jaxgpt.finetuning.settings import LORA_TARGETS, LoraConfig
from jaxgpt.huggingface.weights import load_gpt2, save_gpt2
from jaxgpt.model.gpt import GPT
from jaxgpt.model.layers import linear
from jaxgpt.model.parameters import init_params
from jaxgpt.run_config import OptimizerConfig
from jaxgpt.training.loss import next_token_loss
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.step import gradients, init_state, train_step

SHAPE = ModelConfig(
    vocab_size=19, context_length=8, num_layers=2, num_heads=2, embed_dim=16, tie_head=False
)
TRAIN = TrainConfig(model=SHAPE, optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=0))
BASE = jax.jit(init_params, static_argnums=0)(SHAPE, jax.random.key(0))
LORA = LoraConfig(rank=4, alpha=8.0, targets=LORA_TARGETS)
TOKENS = jnp.array(np.random.default_rng(0).integers(19, size=(4, 9)), jnp.int32)
BATCH = TOKENS[:, :-1], TOKENS[:, 1:]


def trained(config=LORA):
    """Adapters none of whose numbers is 0."""
    adapters = init_adapters(BASE, config, jax.random.key(1))
    noise = np.random.default_rng(2)
    return jax.tree.map(
        lambda leaf: jnp.array(noise.normal(0, 0.1, leaf.shape), leaf.dtype), adapters
    )


def test_new_adapters_change_no_bit():
    merged = merge(BASE, init_adapters(BASE, LORA, jax.random.key(1)), LORA)
    assert fingerprint(merged) == fingerprint(BASE)


@pytest.mark.parametrize(
    ("target", "count"),
    [
        ("query", 2 * 4 * (16 + 16)),
        ("value", 2 * 4 * (16 + 16)),
        ("up", 2 * 4 * (16 + 64)),
        ("down", 2 * 4 * (64 + 16)),
        ("head", 4 * (16 + 19)),
    ],
)
def test_the_number_of_parameters(target, count):
    adapters = init_adapters(BASE, LoraConfig(4, 8.0, (target,)), jax.random.key(1))
    assert sum(leaf.size for leaf in jax.tree.leaves(adapters)) == count


@pytest.mark.slow_but_first
@pytest.mark.parametrize("target", LORA_TARGETS)
def test_merged_is_unmerged(target):
    config = LoraConfig(4, 8.0, (target,))
    adapters, base, merged = trained(config), BASE, merge(BASE, trained(config), config)
    places = {"head": ("head",), "up": ("blocks", "mlp", "up"), "down": ("blocks", "mlp", "down")}
    for name in places.get(target, ("blocks", "attn", "out" if target == "out" else "qkv")):
        base, merged = base[name], merged[name]
    if target != "head":  # of the second layer
        base, merged, adapters = jax.tree.map(lambda leaf: leaf[1], (base, merged, adapters))
    x = jnp.array(np.random.default_rng(3).normal(size=(5, base["weight"].shape[0])), jnp.float32)
    together = linear(x, **merged)
    if target in ("query", "key", "value"):
        third = jnp.split(jnp.arange(48), 3)[("query", "key", "value").index(target)]
        others = jnp.setdiff1d(jnp.arange(48), third)
        np.testing.assert_array_equal(merged["weight"][:, others], base["weight"][:, others])
        base = jax.tree.map(lambda leaf: leaf[..., third], base)
        together = together[:, third]
    low_rank = linear(linear(x, weight=adapters[target]["A"]), weight=adapters[target]["B"])
    apart = linear(x, **base) + config.scale * low_rank
    assert not np.allclose(apart, linear(x, **base), atol=1e-2)
    np.testing.assert_allclose(together, apart, rtol=0, atol=1e-6 * float(jnp.abs(apart).max()))


def test_alpha_over_rank_scales_the_change():
    once, twice = (
        merge(BASE, trained(), LoraConfig(4, alpha, LORA_TARGETS)) for alpha in (4.0, 8.0)
    )
    for before, one, two in zip(*map(jax.tree.leaves, (BASE, once, twice)), strict=True):
        np.testing.assert_allclose(two - before, 2 * (one - before), atol=1e-6)


def test_merging_keeps_the_dtype():
    base = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), BASE)
    merged = merge(base, trained(), LORA)
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {jnp.dtype(jnp.bfloat16)}


def make_step(base, micro_batches=1):
    """A compiled step that is given the base, and the state before the first."""
    optimizer = make_optimizer(TRAIN.optimizer, 50)

    @jax.jit
    def step(base, state, number):
        loss_fn = lora_loss(next_token_loss(TRAIN.model, TRAIN.compute), base, LORA)
        return train_step(
            state,
            BATCH,
            number,
            key=jax.random.key(0),
            loss_fn=loss_fn,
            optimizer=optimizer,
            micro_batches=micro_batches,
        )

    return partial(step, base), init_state(init_adapters(base, LORA, jax.random.key(1)), optimizer)


@pytest.mark.slow
def test_training_moves_the_adapters_alone():
    before = fingerprint(BASE)
    step, state = make_step(BASE)
    losses = []
    for number in range(30):
        state, metrics = step(state, np.int32(number))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] - 0.5
    assert state.params.keys() == set(LORA_TARGETS)
    assert fingerprint(BASE) == before
    logits = GPT(SHAPE, merge(BASE, state.params, LORA))(BATCH[0])
    assert not np.allclose(logits, GPT(SHAPE, BASE)(BATCH[0]), atol=0.1)


@pytest.mark.slow
def test_micro_batches_make_the_same_step():
    loss_fn = lora_loss(next_token_loss(TRAIN.model, TRAIN.compute), BASE, LORA)
    compiled = jax.jit(partial(gradients, loss_fn), static_argnums=3)
    whole, parts = (compiled(trained(), BATCH, jax.random.key(0), n)[0] for n in (1, 4))
    for ours, theirs in zip(*map(jax.tree.leaves, (parts, whole)), strict=True):
        # Sums of 32 targets in another order, and of the products behind them.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=4e-6 * float(jnp.abs(theirs).max()))


def test_a_compiled_step_has_no_copy_of_the_base():
    step, state = make_step(BASE)
    assert 'dense<"0x' not in step.func.lower(BASE, state, np.int32(0)).as_text()


def test_merged_weights_are_a_gpt2_of_hugging_face(tmp_path):
    merged = merge(BASE, trained(), LORA)
    save_gpt2(tmp_path / "gpt2", SHAPE, merged)
    config, loaded = load_gpt2(tmp_path / "gpt2")
    assert config == SHAPE
    assert fingerprint(loaded) == fingerprint(merged)


def test_a_tied_head_is_not_adapted():
    tied = {name: leaf for name, leaf in BASE.items() if name != "head"}
    with pytest.raises(ConfigError, match="no head of its own to adapt; leave out head"):
        init_adapters(tied, LORA, jax.random.key(0))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"rank": 0}, "rank is 0; it must be from 1 to 1,000,000"),
        ({"alpha": 0.0}, "alpha is 0.0; it must be from 1e-06 to"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"targets": ()}, r"targets is \(\); it must be some of query, key, value"),
        ({"targets": ("qkv",)}, r"targets is \('qkv',\)"),
        ({"targets": ("up", "up")}, "each once"),
    ],
)
def test_configs_that_adapt_nothing_are_refused(changes, complaint):
    with pytest.raises(ConfigError, match=complaint):
        LoraConfig(**changes)


def test_the_fingerprint_is_of_every_number_and_name():
    def changed(change):
        params = jax.tree.map(lambda leaf: leaf, BASE)
        change(params)
        return fingerprint(params)

    def number(params):
        params["norm"]["bias"] = params["norm"]["bias"].at[3].set(1e-9)

    def name(params):
        params["norm"]["offset"] = params["norm"].pop("bias")

    def shape(params):
        params["norm"]["bias"] = params["norm"]["bias"].reshape(4, 4)

    def dtype(params):
        params["norm"]["bias"] = params["norm"]["bias"].astype(jnp.bfloat16)

    marks = [changed(change) for change in (lambda params: None, number, name, shape, dtype)]
    assert marks[0] == fingerprint(BASE)
    assert len(set(marks)) == 5


@pytest.fixture
def saved(tmp_path):
    save_adapters(tmp_path / "adapters", trained(), LORA, fingerprint(BASE))
    return tmp_path / "adapters"


def test_adapters_come_back_bit_for_bit(saved):
    adapters, config, _ = load_adapters(saved, BASE)
    assert config == LORA
    assert fingerprint(adapters) == fingerprint(trained())


def test_only_adapters_are_saved(saved):
    numbers = sum(leaf.size for leaf in jax.tree.leaves(trained()))
    size = sum(file.stat().st_size for file in saved.iterdir())
    assert 4 * numbers < size < 4 * numbers + 2000


def edit(folder, sealed=True, **changes):
    record = json.loads((folder / RECORD).read_text()) | changes
    content = seal(record) if sealed else json.dumps(record, indent=2).encode()
    (folder / RECORD).write_bytes(content)


def flip(folder):
    content = bytearray((folder / ADAPTERS).read_bytes())
    content[-1] ^= 1
    (folder / ADAPTERS).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (flip, "adapters.safetensors has changed since it was written"),
        (lambda folder: (folder / ADAPTERS).unlink(), "cannot be read: No such file"),
        (lambda folder: (folder / RECORD).unlink(), "adapters.json cannot be read: No such file"),
        (lambda folder: (folder / RECORD).write_text("{"), "at line 1, column 2"),
        (lambda folder: (folder / RECORD).write_text("{}"), "adapters.json has changed"),
        (partial(edit, format=9), "written by a newer jaxgpt"),
        (partial(edit, sealed=False, format=9), "adapters.json has changed since it was written"),
        (partial(edit, sealed=False, format=1), "adapters.json has changed since it was written"),
        (partial(edit, sealed=False, alpha=7.0), "adapters.json has changed since it was written"),
        (partial(edit, rank=0), "rank is 0; it must be from 1 to 1,000,000"),
        (
            partial(edit, rank=5),
            r"down.A is float32 \(2, 64, 4\); it must be float32 \(2, 64, 5\)",
        ),
        (partial(edit, targets=["up"]), "do not both have down.A"),
        (partial(edit, depth=1), "depth is not a setting"),
    ],
)
def test_what_is_damaged_is_refused_in_one_line(saved, damage, complaint):
    damage(saved)
    with pytest.raises(CheckpointError, match=complaint) as caught:
        load_adapters(saved, BASE)
    assert "\n" not in str(caught.value)


def test_adapters_are_whole_until_a_byte_changes(saved):
    assert are_whole(saved)
    content = bytearray((saved / ADAPTERS).read_bytes())
    content[-1] ^= 1
    (saved / ADAPTERS).write_bytes(content)
    assert not are_whole(saved)
    assert not are_whole(saved / "elsewhere")


def test_another_base_is_refused(saved):
    other = BASE | {"norm": {"scale": BASE["norm"]["scale"], "bias": BASE["norm"]["bias"] + 1e-6}}
    with pytest.raises(CheckpointError, match="adapters of another base model"):
        load_adapters(saved, other)


def test_adapters_that_are_not_finite_are_refused(tmp_path):
    broken = trained()
    broken["up"]["A"] = broken["up"]["A"].at[0, 0, 0].set(jnp.nan)
    save_adapters(tmp_path / "adapters", broken, LORA, fingerprint(BASE))
    with pytest.raises(CheckpointError, match=r"up\.A is .* and finite"):
        load_adapters(tmp_path / "adapters", BASE)


def test_a_folder_that_holds_something_is_kept(saved):
    with pytest.raises(ConfigError, match="not empty"):
        save_adapters(saved, trained(), LORA, fingerprint(BASE))
    save_adapters(saved, trained(), LORA, fingerprint(BASE), overwrite=True)
    assert sorted(file.name for file in saved.iterdir()) == [RECORD, ADAPTERS]
