"""examples/: each part against its definition, and each program from training to figure."""

import dataclasses
import importlib
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import ModelConfig
from jaxgpt.generation.decoding import generate
from jaxgpt.generation.settings import SamplingConfig
from jaxgpt.model.gpt import GPT, init_cache
from jaxgpt.model.layers import gelu
from jaxgpt.model.transformer import with_block
from jaxgpt.presets import get_preset
from jaxgpt.training import run

ROOT = Path(__file__).parent.parent
SHAPE = ModelConfig(vocab_size=31, context_length=12, num_layers=2, num_heads=2, embed_dim=16)
BLOCKS = {"alibi": "alibi", "linear_attention": "BLOCK", "mixture_of_experts": "BLOCK"}
TOKENS = jnp.asarray(np.random.default_rng(0).integers(31, size=(2, 12)))
X = jnp.asarray(np.random.default_rng(1).standard_normal((2, 6, 16), dtype=np.float32))


def _load(name):
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


@pytest.fixture(params=BLOCKS)
def example(request):
    return _load(request.param)


@pytest.fixture
def config(example):
    name = example.__name__
    shape = dataclasses.replace(SHAPE, positions="none" if name == "alibi" else "learned")
    return with_block(shape, getattr(example, BLOCKS[name]))


@pytest.fixture
def params(random_params, config):
    return random_params(config)


@pytest.mark.slow_but_first
def test_decoding_gives_the_logits_of_the_whole(config, params):
    """Prompts of several lengths, padded on the right, and then token by token."""
    whole = jax.jit(lambda tokens: GPT(config, params)(tokens))(TOKENS)
    decode = jax.jit(lambda *given: GPT(config, params).decode(*given))
    lengths = jnp.array([3, 6])
    prompts = jnp.where(jnp.arange(6) < lengths[:, None], TOKENS[:, :6], 7)
    step, cache = decode(prompts, init_cache(config, 2, 12), jnp.zeros(2, int), lengths - 1)
    for ahead in range(3):
        at = lengths + ahead
        np.testing.assert_allclose(step, whole[jnp.arange(2), at - 1], rtol=1e-4, atol=1e-5)
        step, cache = decode(TOKENS[jnp.arange(2), at][:, None], cache, at, jnp.zeros(2, int))


@pytest.mark.slow_but_first
def test_texts_in_one_row_do_not_see_each_other(config, params):
    segments = jnp.array([[0] * 5 + [1] * 7] * 2)
    hidden = jax.jit(lambda tokens, segments: GPT(config, params).hidden(tokens, segments=segments))
    packed = hidden(TOKENS, segments)[:, 5:]
    alone = jnp.concatenate([TOKENS[:, 5:], TOKENS[:, :5]], axis=1)
    np.testing.assert_allclose(packed, hidden(alone, None)[:, :7], rtol=1e-4, atol=1e-5)


@pytest.mark.whole_run
def test_generation_goes_on_past_the_context(config, params):
    greedy = {"sampling": SamplingConfig(temperature=0.0), "max_new_tokens": 14}
    prompts = [TOKENS[0, :2].tolist(), TOKENS[1, :4].tolist()]
    both = generate(config, params, prompts, **greedy)
    assert both[0] == generate(config, params, prompts[:1], **greedy)[0]
    assert list(map(len, both)) == [14, 14]


def test_alibi_by_its_definition(random_params):
    alibi = _load("alibi")
    attn = jax.tree.map(lambda leaf: leaf[0], random_params(SHAPE)["blocks"]["attn"])
    qkv = np.asarray(X @ attn["qkv"]["weight"] + attn["qkv"]["bias"])
    contexts = np.zeros((2, 6, 16), np.float32)
    for head, slope in enumerate((1 / 16, 1 / 256)):  # 2^(-8 / H) and its square, of two heads
        q, k, v = (qkv[..., part * 16 + head * 8 :][..., :8] for part in range(3))
        for t in range(6):
            scores = np.einsum("bk,bsk->bs", q[:, t], k[:, : t + 1]) / np.sqrt(8)
            powers = np.exp(scores - slope * (t - np.arange(t + 1)))
            weights = powers / powers.sum(-1, keepdims=True)
            contexts[:, t, head * 8 :][:, :8] = np.einsum("bs,bsk->bk", weights, v[:, : t + 1])
    ours, _ = alibi.attend(X, **attn, num_heads=2)
    wanted = contexts @ attn["out"]["weight"] + attn["out"]["bias"]
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5)


def test_linear_attention_is_a_recurrence(random_params):
    linear_attention = _load("linear_attention")
    attn = jax.tree.map(lambda leaf: leaf[0], random_params(SHAPE)["blocks"]["attn"])
    qkv = np.asarray(X @ attn["qkv"]["weight"] + attn["qkv"]["bias"])
    contexts = np.zeros((2, 6, 16), np.float32)
    for head in range(2):
        q, k, v = (qkv[..., part * 16 + head * 8 :][..., :8] for part in range(3))
        q, k = (np.where(part > 0, part + 1, np.exp(part)) for part in (q, k))
        products, keys = np.zeros((2, 8, 8)), np.zeros((2, 8))
        for t in range(6):
            products += k[:, t, :, None] * v[:, t, None]
            keys += k[:, t]
            total = np.einsum("bk,bkv->bv", q[:, t], products)
            contexts[:, t, head * 8 :][:, :8] = total / (q[:, t] * keys).sum(-1, keepdims=True)
    ours, _ = linear_attention.attend(X, **attn, num_heads=2)
    wanted = contexts @ attn["out"]["weight"] + attn["out"]["bias"]
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5)


def test_the_mixture_is_a_loop_over_tokens_and_their_experts(random_params):
    mixture = _load("mixture_of_experts")
    params = random_params(with_block(SHAPE, mixture.BLOCK))
    mlp = jax.tree.map(lambda leaf: leaf[0], params["blocks"]["mlp"])
    wanted = np.zeros((12, 16), np.float32)
    tokens = np.asarray(X).reshape(12, 16)
    for row, token in zip(wanted, tokens, strict=True):
        scores = token @ np.asarray(mlp["router"]["weight"])
        chosen = np.argsort(scores)[-2:]
        gates = np.exp(scores[chosen]) / np.exp(scores[chosen]).sum()
        for gate, n in zip(gates, chosen, strict=True):
            up, down = ({k: v[n] for k, v in mlp[name].items()} for name in ("up", "down"))
            hidden = gelu(token @ up["weight"] + up["bias"])
            row += gate * np.asarray(hidden @ down["weight"] + down["bias"])
    np.testing.assert_allclose(mixture.feed(X, **mlp).reshape(12, 16), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.whole_run
def test_an_example_trains_resumes_generates_and_draws(example, tmp_path, monkeypatch, capsys):
    tiny = get_preset("tiny")
    data = dataclasses.replace(tiny.data, stories_bytes=20_000)
    small = dataclasses.replace(tiny, data=data, batch_size=8, checkpoint_every=1)
    monkeypatch.setattr(example.jaxgpt, "get_preset", lambda name: small)
    fit, interrupted = run.fit, []

    def interrupt(state, config, *, step_fn, **rest):
        def step(state, batch, number):
            if number == 1 and not interrupted:
                interrupted.append(number)
                raise KeyboardInterrupt
            return step_fn(state, batch, number)

        return fit(state, config, step_fn=step, **rest)

    monkeypatch.setattr(run, "fit", interrupt)
    with pytest.raises(KeyboardInterrupt):
        example.main(steps=2, out=tmp_path / "run")
    example.main(steps=2, out=tmp_path / "run")
    assert "at step 1" in capsys.readouterr().err
    assert (tmp_path / "run/loss.png").stat().st_size > 1000
    metrics = (tmp_path / "run/metrics.jsonl").read_text()
    assert metrics.count('"loss"') == 2
