import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.errors import ConfigError, DataError
from jaxgpt.model.embedding import embed, sinusoidal_positions, unembed

TOKENS_TABLE = jnp.arange(30.0).reshape(10, 3)
POSITIONS_TABLE = 1000.0 * jnp.arange(12.0).reshape(4, 3)
TOKENS = jnp.array([[7, 7, 0], [1, 9, 2]])


def test_embed_adds_the_tokens_row_and_the_positions():
    x = embed(TOKENS, tokens_table=TOKENS_TABLE, positions_table=POSITIONS_TABLE)
    assert x.shape == (2, 3, 3)
    for b in range(2):
        for t in range(3):
            np.testing.assert_array_equal(x[b, t], TOKENS_TABLE[TOKENS[b, t]] + POSITIONS_TABLE[t])


@pytest.mark.parametrize(
    ("tokens", "places", "message"),
    [
        ([[10]], None, r"token id 10 is outside \[0, 10\)"),
        ([[-1]], None, "token id -1 is outside"),
        ([[0]], [[4]], r"position 4 is outside \[0, 4\)"),
        ([[0] * 5], None, "5 tokens are longer than context_length 4"),
    ],
)
def test_embed_refuses_what_has_no_row(tokens, places, message):
    places = None if places is None else jnp.array(places)
    tables = {"tokens_table": TOKENS_TABLE, "positions_table": POSITIONS_TABLE}
    with pytest.raises((ConfigError, DataError), match=message):
        embed(jnp.array(tokens), **tables, positions=places)


def test_embed_at_given_places():
    x = embed(
        TOKENS[:, :2],
        tokens_table=TOKENS_TABLE,
        positions_table=POSITIONS_TABLE,
        positions=jnp.array([[0, 1], [2, 3]]),
    )
    np.testing.assert_array_equal(x[0, 1], TOKENS_TABLE[7] + POSITIONS_TABLE[1])
    np.testing.assert_array_equal(x[1, 0], TOKENS_TABLE[1] + POSITIONS_TABLE[2])
    np.testing.assert_array_equal(x[1, 1], TOKENS_TABLE[9] + POSITIONS_TABLE[3])


def test_embed_without_a_table_is_a_type_error():
    with pytest.raises(TypeError, match="positions_table"):
        embed(TOKENS, tokens_table=TOKENS_TABLE)


def test_sinusoidal_positions_against_the_formula():
    length, width = 1024, 16
    table = sinusoidal_positions(length, width)
    assert table.shape == (length, width)
    assert table.dtype == jnp.float32
    column = np.arange(width // 2)
    angles = np.arange(length)[:, None] / 10_000 ** (2 * column / width)
    # A float32 angle is off by some roundings of its size.
    near = 1e-7 + 8 * angles * 2.0**-24
    assert (np.abs(table[:, 0::2] - np.sin(angles)) < near).all()
    assert (np.abs(table[:, 1::2] - np.cos(angles)) < near).all()


def test_unembed_by_the_table_or_by_a_head():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 3), dtype=np.float32))
    head = {"weight": jnp.ones((3, 10))}
    tied = unembed(x, tokens_table=TOKENS_TABLE)
    assert tied.shape == (2, 5, 10)
    np.testing.assert_allclose(tied, np.asarray(x) @ np.asarray(TOKENS_TABLE).T, rtol=1e-5)
    untied = unembed(x, tokens_table=TOKENS_TABLE, head=head)
    np.testing.assert_allclose(untied, np.repeat(x.sum(-1, keepdims=True), 10, -1), rtol=1e-5)


def test_a_tied_tables_gradient_is_the_sum_of_both_uses():
    def use(first, second):
        x = embed(TOKENS, tokens_table=first, positions_table=POSITIONS_TABLE / 1000)
        return jnp.sin(unembed(x, tokens_table=second) / 100).sum()

    tied = jax.grad(lambda table: use(table, table))(TOKENS_TABLE)
    first, second = jax.grad(use, argnums=(0, 1))(TOKENS_TABLE, TOKENS_TABLE)
    assert np.abs(first).max() > 0.01
    assert np.abs(second).max() > 0.01
    np.testing.assert_allclose(tied, first + second, rtol=1e-5, atol=1e-6)
