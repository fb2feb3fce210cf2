"""The loss is the textbook's, in float32, and counts what it should."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.compute import Compute
from jaxgpt.config import ModelConfig
from jaxgpt.errors import DataError
from jaxgpt.model.parameters import init_params, parameter_shapes
from jaxgpt.model.products import is_widened
from jaxgpt.training import loss as loss_module
from jaxgpt.training.loss import cross_entropy, head_loss, head_losses, hidden

RNG = np.random.default_rng(0)
RNG_KEY = jax.random.key(0)
VOCAB_SIZE = 130  # two more than a tile
X = jnp.array(RNG.normal(size=(3, 7, 16)), jnp.float32)
TABLE = jnp.array(RNG.normal(size=(VOCAB_SIZE, 16)), jnp.float32)
TARGETS = jnp.array(RNG.integers(VOCAB_SIZE, size=(3, 7))).at[1, 2:5].set(-100)
WEIGHTS = jnp.array([1.0, -2.0, 0.5])  # rows count differently, as they do to DPO


def whole(x, table):
    """The loss with all logits at once, differentiated by JAX."""
    logits = jnp.matmul(x, table.T.astype(x.dtype), preferred_element_type=jnp.float32)
    return cross_entropy(logits, TARGETS)


def chunked(x, table):
    return head_loss(x, table, TARGETS)


def test_uniform_logits_cost_the_log_of_the_vocabulary():
    nats, count = cross_entropy(jnp.zeros((2, 3, 7)), jnp.ones((2, 3), jnp.int32))
    assert count == 6
    assert nats / count == pytest.approx(np.log(7), rel=1e-6)


@pytest.mark.parametrize("target", [VOCAB_SIZE, -1])
@pytest.mark.parametrize("loss", [whole, chunked])
def test_a_target_outside_the_vocabulary_is_refused_where_it_can_be_seen(loss, target, monkeypatch):
    monkeypatch.setitem(globals(), "TARGETS", TARGETS.at[0, 1].set(target))
    with pytest.raises(DataError, match=rf"target {target} is outside \[0, 130\); -100 marks"):
        loss(X, TABLE)


def test_ignored_targets_do_not_count():
    logits = jnp.array([[-1.0, 1.0], [-0.5, 1.5], [9.0, -9.0]])
    nats, count = cross_entropy(logits, jnp.array([0, 1, -100]))
    assert (float(nats / count), int(count)) == (pytest.approx(1.1269, abs=6e-5), 2)


def test_large_logits_do_not_overflow_in_bfloat16():
    logits = jnp.array([[300.0, -300.0]], jnp.bfloat16)
    nats, _ = cross_entropy(logits, jnp.array([1]))
    assert nats.dtype == jnp.float32
    assert float(nats) == 600.0


@pytest.mark.slow_but_first
@pytest.mark.parametrize("positions", [1, 2, 3, 7])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_chunks_of_the_head_change_neither_loss_nor_gradient(monkeypatch, positions, dtype):
    monkeypatch.setitem(loss_module._MOST_LOGITS, "cpu", positions * 3 * VOCAB_SIZE)
    x = X.astype(dtype)
    expected = jax.value_and_grad(whole, (0, 1), has_aux=True)(x, TABLE)
    found = jax.value_and_grad(chunked, (0, 1), has_aux=True)(x, TABLE)
    assert found[0][1] == expected[0][1] == 18
    assert chunked(x, TABLE)[0] == pytest.approx(float(expected[0][0]), rel=1e-6)
    assert found[0][0] == pytest.approx(float(expected[0][0]), rel=1e-6)
    # A sum of n products is rounded n times; the gradient of the logits once, to x's dtype.
    n, half_ulp = VOCAB_SIZE + X[..., 0].size, float(jnp.finfo(dtype).eps) / 2
    for ours, theirs in zip(found[1], expected[1], strict=True):
        assert ours.dtype == theirs.dtype
        largest = float(jnp.abs(theirs.astype(jnp.float32)).max())
        bound = (2 * half_ulp + n * 2**-24) * largest
        np.testing.assert_allclose(
            ours.astype(jnp.float32), theirs.astype(jnp.float32), rtol=0, atol=2 * bound
        )


def test_targets_that_are_all_ignored_cost_nothing():
    nothing = jnp.full_like(TARGETS, -100)
    loss, grads = jax.value_and_grad(
        lambda x, table: head_loss(x, table, nothing), (0, 1), has_aux=True
    )(X, TABLE)
    assert [float(value) for value in loss] == [0, 0]
    assert not any(np.any(grad) for grad in grads)


def by_rows(x, table, targets):
    """As `whole`, each row by itself."""
    logits = jax.nn.log_softmax(x @ table.T)
    picked = jnp.take_along_axis(logits, jnp.maximum(targets, 0)[..., None], axis=-1)[..., 0]
    return -jnp.where(targets == -100, 0, picked).sum(axis=-1)


@pytest.mark.slow_but_first
@pytest.mark.parametrize("positions", [1, 2, 3, 7])
def test_rows_by_themselves_have_the_textbooks_losses_and_gradients(monkeypatch, positions):
    monkeypatch.setitem(loss_module._MOST_LOGITS, "cpu", positions * 3 * VOCAB_SIZE)
    targets = TARGETS.at[2].set(-100)

    def both(losses):
        def value(*inputs):
            return (losses(*inputs, targets) * WEIGHTS).sum()

        return jax.jit(jax.value_and_grad(value, (0, 1)))(X, TABLE)

    nats, count = jax.jit(head_losses)(X, TABLE, targets)
    np.testing.assert_allclose(nats, by_rows(X, TABLE, targets), rtol=1e-6)
    assert [*map(int, count), float(nats[2])] == [7, 4, 0, 0]
    value, grads = both(lambda *given: head_losses(*given)[0])
    expected, wanted = both(by_rows)
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    for found, grad in zip(grads, wanted, strict=True):
        # Sums over at most 130 entries: 2 sqrt(130) roundings of 2^-24.
        np.testing.assert_allclose(found, grad, rtol=0, atol=1.4e-6 * float(jnp.abs(grad).max()))


def test_rows_in_bfloat16_are_summed_in_float32():
    x = jnp.full((1, 4, 16), 2.0, jnp.bfloat16)
    nats, _ = head_losses(x, jnp.zeros((30, 16)), jnp.zeros((1, 4), jnp.int32))
    assert nats.dtype == jnp.float32
    assert float(nats[0]) == pytest.approx(4 * np.log(30), rel=1e-6)


@pytest.mark.parametrize("losses", [head_loss, head_losses])
def test_the_head_never_holds_all_logits(monkeypatch, losses):
    monkeypatch.setitem(loss_module._MOST_LOGITS, "cpu", 2**18)
    x, table, targets = jnp.zeros((1, 4096, 8)), jnp.zeros((1024, 8)), jnp.zeros((1, 4096), int)
    step = jax.jit(jax.value_and_grad(lambda x, table: losses(x, table, targets)[0].sum(), (0, 1)))
    memory: Any = step.lower(x, table).compile().memory_analysis()
    assert 4 * 2**18 <= memory.temp_size_in_bytes < 4 * 4096 * 1024 / 4


SHAPE: Any = {"vocab_size": 2, "context_length": 3, "num_heads": 1, "embed_dim": 4}


def test_what_many_blocks_add_is_not_lost_in_bfloat16():
    config = ModelConfig(**SHAPE, num_layers=64)
    params: Any = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), parameter_shapes(config))
    params["norm"]["scale"] += 1
    params["embed"]["tokens"] += jnp.array([1.0, -1, 1, -1])
    # Of 1, less than half of bfloat16's last bit: 64 of them are a sixteenth.
    params["blocks"]["mlp"]["down"]["bias"] += jnp.array([2**-10, 0, 0, 0])
    tokens = jnp.zeros((1, 3), jnp.int32)
    exact = hidden(config, params, tokens, Compute("float32"))
    np.testing.assert_allclose(exact[0, 0, 0], 1.03, atol=0.01)
    # Half of the last bit of numbers up to 2, and the scale's and the variance's in float32.
    np.testing.assert_allclose(
        np.float32(hidden(config, params, tokens, Compute("bfloat16"))), exact, atol=2**-8 + 1e-6
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_cpu_that_multiplies_bfloat16_has_no_loop_over_layers_in_it(dtype):
    config = ModelConfig(**SHAPE, num_layers=3)
    tokens = jax.ShapeDtypeStruct((1, 3), jnp.int32)

    def computed(params, tokens):
        return hidden(config, params, tokens, Compute(dtype))

    program = jax.jit(computed).lower(parameter_shapes(config), tokens).as_text()
    assert ("stablehlo.while" in program) == (dtype == "float32" or is_widened("a @ b"))


@pytest.mark.slow
def test_parameters_in_bfloat16_are_computed_with_in_float32():
    config = ModelConfig(**SHAPE, num_layers=2)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), init_params(config, RNG_KEY))
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    tokens = jnp.zeros((1, 3), jnp.int32)
    found = hidden(config, params, tokens, Compute("float32"))
    np.testing.assert_array_equal(found, hidden(config, wide, tokens, Compute("float32")))
