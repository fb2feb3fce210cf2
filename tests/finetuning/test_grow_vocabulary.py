"""A grown vocabulary: markers are one token each, and old logits stay what they were."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.compute import Compute
from jaxgpt.config import ModelConfig, TrainConfig
from jaxgpt.errors import DataError
from jaxgpt.finetuning.instructions import encode_conversation, encode_prompt
from jaxgpt.finetuning.templates import TEMPLATES, Turn
from jaxgpt.finetuning.vocabulary import grow_vocabulary
from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import parameter_shapes
from jaxgpt.tokenization.bpe import train_bpe
from jaxgpt.tokenization.tokenizer import ByteTokenizer, WordTokenizer, load_tokenizer
from jaxgpt.training.checkpoint import LoadedModel, load_model, save_model
from jaxgpt.training.loss import head_table, hidden

TOKENIZER = train_bpe(["Name the hero. Who was kind? "] * 9, 270)
CHAT = TEMPLATES["chat"].special_tokens
TASK = {"kind": "instructions", "template": "chat"}
SHAPE = ModelConfig(vocab_size=270, context_length=16, num_layers=1, num_heads=2, embed_dim=32)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 270, (3, 16)), jnp.int32)


@pytest.fixture
def model(random_params):
    def make(**changes):
        shape = dataclasses.replace(SHAPE, **changes)
        train = dataclasses.replace(TrainConfig(), model=shape)
        return LoadedModel(shape, random_params(shape), TOKENIZER, 7, train, TASK)

    return make


def test_the_markers_that_can_be_tokens():
    assert CHAT == ["<|im_start|>", "<|im_end|>"]
    assert TEMPLATES["phi"].special_tokens == ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    assert TEMPLATES["alpaca"].special_tokens == []


def test_new_special_tokens_follow_the_old_ids(tmp_path):
    grown = TOKENIZER.with_special_tokens([*CHAT, "<|endoftext|>", CHAT[0]])
    assert grown.special_tokens == {"<|endoftext|>": 269, CHAT[0]: 270, CHAT[1]: 271}
    assert (grown.name, grown.vocab_size, grown.end_of_text) == ("bpe+2", 272, 269)
    assert grown.fingerprint != TOKENIZER.fingerprint
    assert grown.with_special_tokens(CHAT) is grown
    text = "Who <|im_start|> was <|im_end|>"
    assert grown.encode(text) == TOKENIZER.encode(text)
    tokens = grown.encode(text, allow_special=True)
    assert [token for token in tokens if token >= 270] == [270, 271]
    assert grown.decode(tokens) == text
    grown.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert (loaded.name, loaded.fingerprint) == (grown.name, grown.fingerprint)


@pytest.mark.parametrize("name", ["", "\ud800"])
def test_what_is_no_name(name):
    with pytest.raises(DataError, match=r"no characters|lone surrogate"):
        TOKENIZER.with_special_tokens([name])


@pytest.mark.parametrize("template", ["chat", "phi"])
def test_markers_are_one_token_each_and_a_users_text_has_none(template):
    template = TEMPLATES[template]
    names = template.special_tokens
    grown = TOKENIZER.with_special_tokens(names)
    turns = [Turn("system", "Be kind."), Turn("user", "".join(names)), Turn("assistant", names[0])]
    row = encode_conversation(turns, template, grown, mask_prompt=False)
    tokens = [*row.inputs.tolist(), int(row.targets[-1])]
    markers = [token for token in tokens if token >= TOKENIZER.vocab_size]
    text = "".join(piece.text for piece in template.render(turns) if piece.kind == "marker")
    assert markers == [t for t in grown.encode(text, allow_special=True) if t >= 270]
    assert len(markers) == 5
    said = grown.encode("".join(names))
    assert any(tokens[i : i + len(said)] == said for i in range(len(tokens)))
    prompt = encode_prompt(turns[:2], template, grown)
    assert tokens[: len(prompt)] == prompt
    assert sum(token >= 270 for token in prompt) == 5


def logits(model, dtype):
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), model.params)
    return np.asarray(jax.jit(GPT(model.config, params))(TOKENS).astype(jnp.float32))


@pytest.mark.slow_but_first
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
def test_where_padding_is_used_up_old_logits_keep_every_bit(model, tied, dtype):
    old = model(vocab_size=288, tie_head=tied)
    new = grow_vocabulary(old, CHAT)
    assert (new.config, new.train_config.model) == (old.config, old.config)
    before, after = logits(old, dtype), logits(new, dtype)
    np.testing.assert_array_equal(before[..., :270], after[..., :270])
    np.testing.assert_array_equal(before[..., 272:], after[..., 272:])
    assert (before[..., 270:272] != after[..., 270:272]).any()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
def test_where_a_table_grows_old_logits_keep_every_bit(model, tied, dtype):
    old = model(tie_head=tied)
    new = grow_vocabulary(old, CHAT)
    assert new.config.vocab_size == new.train_config.model.vocab_size == 270 + 64
    shapes = jax.tree.map(lambda leaf: leaf.shape, new.params)
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, parameter_shapes(new.config))
    np.testing.assert_array_equal(logits(old, dtype), logits(new, dtype)[..., :270])
    # In training, too, where the head is another product.
    for measure in (
        lambda config, params: hidden(config, params, TOKENS, Compute(dtype)),
        lambda config, params: head_table(config, params)[:270],
    ):
        before, after = (measure(item.config, item.params) for item in (old, new))
        np.testing.assert_array_equal(before, after)


def test_new_rows_are_near_the_mean_and_differ(model):
    old = model(vocab_size=288, tie_head=False)
    new, other = grow_vocabulary(old, CHAT), grow_vocabulary(old, CHAT, seed=1)
    for of in (lambda p: p["embed"]["tokens"], lambda p: p["head"]["weight"].T):
        known, rows = of(old.params)[:270], of(new.params)[270:272]
        # Each number lies within a tenth of a deviation; 64 of them, so four tenths.
        assert (jnp.abs(rows - known.mean(0)) < 0.4 * known.std(0)).all()
        assert (rows[0] != rows[1]).all()
        assert (rows != of(other.params)[270:272]).all()
    again = grow_vocabulary(old, CHAT)
    assert (again.params["head"]["weight"] == new.params["head"]["weight"]).all()


def test_growing_again_changes_nothing(model):
    new = grow_vocabulary(model(), CHAT)
    again = grow_vocabulary(new, CHAT)
    assert again.tokenizer is new.tokenizer
    assert (again.params["embed"]["tokens"] == new.params["embed"]["tokens"]).all()


def test_a_grown_model_is_saved_and_loaded(model, tmp_path):
    new = grow_vocabulary(model(tie_head=False), CHAT)
    assert (new.step, new.task) == (7, TASK)
    save_model(tmp_path / "grown", new)
    loaded = load_model(tmp_path / "grown")
    assert (loaded.config, loaded.tokenizer.name) == (new.config, "bpe+2")
    np.testing.assert_array_equal(loaded.params["head"]["weight"], new.params["head"]["weight"])


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), WordTokenizer.train("a b c")])
def test_tokenizers_that_cannot_grow(model, tokenizer):
    old = dataclasses.replace(model(), tokenizer=tokenizer)
    assert grow_vocabulary(old, TEMPLATES["alpaca"].special_tokens) is old
    with pytest.raises(DataError, match=r"cannot take the special token <\|im_start\|>; only byte"):
        grow_vocabulary(old, CHAT)
