"""A look inside a model: the numbers are those of the model, whatever the length of the text."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import jaxgpt
from jaxgpt.errors import ConfigError
from jaxgpt.generation.prepared_params import prepare_params
from jaxgpt.generation.text import PreparedModel
from jaxgpt.serving import look as module
from jaxgpt.serving.look import look_inside

TEXT = [*range(40, 60), *range(50, 45, -1)]


@pytest.fixture(scope="module")
def model(base):
    # Few layers of noise attend evenly; larger weights tell one head from another.
    blocks = base.params["blocks"]
    params = {**base.params, "blocks": {**blocks, "attn": _louder(blocks["attn"])}}
    return PreparedModel(base.config, prepare_params(params), base.tokenizer)


def _louder(attn):
    return {name: {k: 8 * leaf for k, leaf in part.items()} for name, part in attn.items()}


@pytest.fixture(scope="module")
def expected(model):
    gpt = jaxgpt.GPT(model.config, model.params.as_params())
    return jaxgpt.activations(gpt, jnp.array([TEXT]), ["logits", "blocks.*.attn.weights"])


@pytest.mark.slow
def test_the_attention_and_the_surprise_are_those_of_the_activations(model, expected):
    for length in (1, 2, len(TEXT)):
        look = look_inside(model, TEXT[:length])
        for layer in range(model.config.num_layers):
            weights = expected[f"blocks.{layer}.attn.weights"][0, :, length - 1, :length]
            np.testing.assert_allclose(look.attention[layer], weights, atol=1e-6)
        chances = np.asarray(expected["logits"][0], np.float64)[: length - 1]
        chances -= np.log(np.exp(chances).sum(-1, keepdims=True))
        bits = -chances[np.arange(length - 1), TEXT[1:length]] / np.log(2)
        np.testing.assert_allclose(look.surprise[1:], bits, atol=1e-4)
        assert np.isnan(look.surprise[0])
        assert look.tokens == tuple(TEXT[:length])
        assert look.left_out == 0
    assert look.attention.std() > 0.01, "all heads look everywhere alike, which shows nothing"
    np.testing.assert_allclose(look.attention.sum(-1), 1, atol=1e-5)


@pytest.mark.slow
def test_tokens_that_cannot_be_written_have_no_part_in_the_surprise(model, expected):
    narrow = dataclasses.replace(model, tokenizer=jaxgpt.load_tokenizer("bytes"))
    chances = np.asarray(expected["logits"][0], np.float64)[0, :256]
    bits = (np.log(np.exp(chances).sum()) - chances[TEXT[1]]) / np.log(2)
    assert abs(look_inside(narrow, TEXT[:2]).surprise[1] - bits) < 1e-4
    with pytest.raises(ConfigError, match="a token's id is 256; it must be from 0 to 255"):
        look_inside(narrow, [256])


def test_of_a_long_text_the_end_is_looked_at(model, monkeypatch):
    monkeypatch.setattr(module, "MOST_TOKENS", 8)
    look, end = look_inside(model, TEXT), look_inside(model, TEXT[-8:])
    assert (look.left_out, end.left_out) == (len(TEXT) - 8, 0)
    assert look.tokens == tuple(TEXT[-8:])
    np.testing.assert_array_equal(look.attention, end.attention)


def test_one_program_serves_every_text(model, compiled_anew):
    look_inside(model, TEXT)
    compiled_anew.clear()
    for length in (1, 7, len(TEXT)):
        look_inside(model, TEXT[:length])
    assert not compiled_anew


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ([], "the number of tokens of the text is 0; it must be from 1 to 64"),
        ([1] * 65, "the number of tokens of the text is 65"),
        ([1, 290], "a token's id is 290; it must be from 0 to 289"),
        ([-1, 1], "a token's id is -1"),
        ([10**30], "a token's id is a number of 31 digits"),
    ],
)
def test_what_is_no_text_is_refused(model, text, message):
    with pytest.raises(ConfigError, match=message):
        look_inside(model, text)
