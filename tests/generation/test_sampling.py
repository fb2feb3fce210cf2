"""Filters by hand and against a sorting oracle; draws against their distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.errors import ConfigError
from jaxgpt.generation.sampling import (
    SamplingConfig,
    SamplingRows,
    filter_logits,
    likeliest,
    sample,
)

UNSEEN = jnp.zeros((1, 4), dtype=bool)


def filtered(logits, seen=None, **settings):
    logits = jnp.asarray([logits], dtype=jnp.float32)
    seen = jnp.zeros(logits.shape, bool) if seen is None else jnp.asarray([seen])
    return np.asarray(filter_logits(logits, SamplingConfig(**settings), seen))[0]


def remaining(logits, **settings):
    return np.flatnonzero(np.isfinite(filtered(logits, **settings))).tolist()


def test_default_changes_nothing():
    np.testing.assert_array_equal(filtered([1.0, -2.0, 0.5, 3.0]), [1.0, -2.0, 0.5, 3.0])


def test_temperature_divides():
    np.testing.assert_array_equal(filtered([1.0, -2.0], temperature=0.5), [2.0, -4.0])


def test_penalty_lowers_seen_logits_of_either_sign():
    result = filtered([2.0, -2.0, 2.0, -2.0], [True, True, False, False], repetition_penalty=4.0)
    np.testing.assert_array_equal(result, [0.5, -8.0, 2.0, -2.0])


def test_top_k_keeps_the_largest_and_their_equals():
    assert remaining([1.0, 4.0, 3.0, 2.0], top_k=2) == [1, 2]
    assert remaining([1.0, 4.0, 3.0, 3.0], top_k=2) == [1, 2, 3]
    assert remaining([1.0, 4.0, 3.0, 2.0], top_k=4) == [0, 1, 2, 3]
    assert remaining([1.0, 4.0, 3.0, 2.0], top_k=99) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(1e-50, [1]), (0.3, [1]), (0.45, [1, 3]), (0.75, [1, 2, 3]), (0.95, [0, 1, 2, 3])],
)
def test_top_p_keeps_the_fewest_that_reach_it(top_p, kept):
    assert remaining(np.log([0.1, 0.4, 0.2, 0.3]), top_p=top_p) == kept


def test_min_p_is_relative_to_the_likeliest():
    assert remaining(np.log([0.1, 0.4, 0.2, 0.3]), min_p=0.45) == [1, 2, 3]
    assert remaining(np.log([0.1, 0.4, 0.2, 0.3]), min_p=0.8) == [1]


def test_order_is_penalty_temperature_top_k_top_p_min_p():
    logits = np.log([0.4, 0.3, 0.2, 0.1])
    # Top-p after top-k: of [0.57, 0.43] the first two reach 0.5 only through the first.
    assert remaining(logits, top_k=2, top_p=0.5) == [0]
    assert remaining(logits, top_p=0.5) == [0, 1]
    # Top-p after the temperature, which makes [0.53, 0.3, 0.13, 0.03] of them.
    assert remaining(logits, temperature=0.5, top_p=0.5) == [0]
    # Min-p, relative, sees no difference from top-k but does from the temperature.
    assert remaining(logits, min_p=0.6) == [0, 1]
    assert remaining(logits, min_p=0.6, temperature=0.5) == [0]
    # The penalty comes before all: what was first is now last.
    seen = [True, False, False, False]
    assert np.isneginf(filtered(logits, seen, repetition_penalty=9.0, top_k=3)[0])


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.999])
def test_likeliest_equals_a_sort(top_p):
    logits = np.random.default_rng(0).normal(size=(20, 301)).astype(np.float32) * 3
    logits[:, 7] = -np.inf
    weights = np.asarray(jax.nn.softmax(logits, axis=-1))
    order = np.argsort(-logits, axis=-1)
    ahead = np.cumsum(np.take_along_axis(weights, order, -1).astype(np.float64), axis=-1)
    expected = np.zeros(logits.shape, bool)
    np.put_along_axis(expected, order, np.roll(ahead, 1, -1) < top_p, -1)
    np.put_along_axis(expected, order[:, :1], True, -1)
    expected &= np.isfinite(logits)
    kept = likeliest(jnp.asarray(logits), jnp.asarray(weights), top_p)
    np.testing.assert_array_equal(kept, expected)


def test_likeliest_keeps_all_that_fall_short():
    logits = jnp.asarray([[1.0, -jnp.inf, -3.0, 0.0]])
    assert likeliest(logits, jnp.ones((1, 4)), 9.0).all()


def test_greedy_is_argmax_after_the_penalty():
    logits = jnp.asarray([[1.0, 3.0, 2.0, 0.0]] * 2)
    seen = jnp.asarray([[False] * 4, [False, True, False, False]])
    config = SamplingConfig(temperature=0.0, repetition_penalty=2.0)
    assert sample(logits, seen, jax.random.split(jax.random.key(0), 2), config).tolist() == [1, 2]


def test_draws_follow_the_distribution():
    rows = 20_000
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    logits = jnp.broadcast_to(jnp.log(probabilities), (rows, 4))
    seen, keys = jnp.zeros((rows, 4), bool), jax.random.split(jax.random.key(0), rows)
    drawn = sample(logits, seen, keys, SamplingConfig())
    shares = np.bincount(drawn, minlength=4) / rows
    assert np.abs(shares - probabilities).max() < 4 * np.sqrt(0.25 / rows)
    drawn = sample(logits, seen, keys, SamplingConfig(top_k=2))
    shares = np.bincount(drawn, minlength=4) / rows
    assert np.abs(shares - [0.625, 0.375, 0, 0]).max() < 4 * np.sqrt(0.25 / rows)
    assert shares[2:].sum() == 0


def test_draw_depends_on_its_own_row_alone():
    logits = jax.random.normal(jax.random.key(1), (5, 50))
    seen, keys = jnp.zeros((5, 50), bool), jax.random.split(jax.random.key(0), 5)
    config = SamplingConfig(top_k=40, top_p=0.95)
    draw = jax.jit(sample, static_argnames="config")
    together = draw(logits, seen, keys, config)
    alone = [draw(logits[i : i + 1], seen[:1], keys[i : i + 1], config)[0] for i in range(5)]
    np.testing.assert_array_equal(together, alone)


def test_bfloat16_logits_are_filtered_in_float32():
    logits = jnp.asarray([[1.0, 2.0, 3.0, 4.0]], dtype=jnp.bfloat16)
    assert filter_logits(logits, SamplingConfig(temperature=0.3), UNSEEN).dtype == jnp.float32


def test_config_is_static_under_jit():
    draw = jax.jit(lambda *arrays, config: sample(*arrays, config), static_argnames="config")
    logits, keys = jnp.asarray([[0.0, 1.0, 2.0, 9.0]]), jax.random.split(jax.random.key(0), 1)
    for _ in range(2):
        assert draw(logits, UNSEEN, keys, config=SamplingConfig(temperature=0.0)).tolist() == [3]
    assert draw._cache_size() == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1.0),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", 1e-9),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", float("nan")),
        ("min_p", 1.0),
        ("min_p", -0.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", float("inf")),
    ],
)
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(ConfigError, match=f"{field} is {value}; it must be"):
        SamplingConfig(**{field: value})


ROWS = [
    SamplingConfig(),
    SamplingConfig(temperature=0.0),
    SamplingConfig(temperature=0.7, top_k=5),
    SamplingConfig(top_k=40),  # of 30 tokens
    SamplingConfig(temperature=1.5, top_p=0.6),
    SamplingConfig(min_p=0.2),
    SamplingConfig(temperature=0.0, repetition_penalty=1.7),
    SamplingConfig(temperature=0.6, top_k=9, top_p=0.8, min_p=0.1, repetition_penalty=0.8),
]


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [range(8), [0], [1, 6], [5, 0], [2, 1], [4]], ids=str)
def test_rows_with_settings_of_their_own_are_each_as_alone(chosen):
    noise = np.random.default_rng(0)
    logits = jnp.asarray(3 * noise.standard_normal((8, 30)), jnp.float32)
    seen, keys = jnp.asarray(noise.random((8, 30)) < 0.3), jax.random.split(jax.random.key(1), 8)
    rows = np.array(chosen)
    kinds = {"top_k": "int32"}
    numbers = SamplingRows(
        *(
            np.array([getattr(ROWS[i], name) for i in chosen], kinds.get(name, "float32"))
            for name in SamplingRows._fields
        )
    )
    kept = filter_logits(logits[rows], numbers, seen[rows])
    drawn = sample(logits[rows], seen[rows], keys[rows], numbers)
    for place, i in enumerate(chosen):
        own = logits[i : i + 1], ROWS[i], seen[i : i + 1]
        np.testing.assert_allclose(kept[place], filter_logits(*own)[0], rtol=1e-6)
        assert drawn[place] == sample(own[0], own[2], keys[i : i + 1], ROWS[i])[0]
