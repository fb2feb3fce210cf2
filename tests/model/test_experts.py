"""A mixture of experts: equal to a loop over tokens, on one device and on eight, cached or not."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.compute import Compute
from jaxgpt.config import Experts, ModelConfig, TrainConfig
from jaxgpt.errors import ConfigError
from jaxgpt.finetuning.lora import init_adapters, merge
from jaxgpt.finetuning.settings import LoraConfig
from jaxgpt.model.activations import activations, recorded_names
from jaxgpt.model.attention import attend_causally
from jaxgpt.model.attention_kernels import Device, choose_attention
from jaxgpt.model.experts import imbalance, mix_experts
from jaxgpt.model.flops import active_parameters, flops_per_token
from jaxgpt.model.gpt import GPT, init_cache
from jaxgpt.model.parameters import count_parameters, init_params
from jaxgpt.training.loss import next_token_loss
from jaxgpt.training.mesh import batch_sharding, make_mesh, on_mesh, state_shardings
from jaxgpt.training.muon import labels
from jaxgpt.training.optimizer import decay_mask
from jaxgpt.training.plan import make_plan
from jaxgpt.training.step import gradients

CONFIG = ModelConfig(
    vocab_size=37,
    context_length=24,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    embed_dim=16,
    hidden_dim=8,
    norm="rms",
    positions="rope",
    gate="clamped",
    gate_limit=0.3,
    window=5,
    window_period=2,
    sinks=True,
    experts=Experts(num_experts=6, experts_per_token=3, router_bias=True, router_balance=0.1),
)
QWEN = replace(CONFIG, gate="silu", mlp_bias=False, sinks=False, window=0, window_period=0)
QWEN = replace(QWEN, experts=Experts(num_experts=6, experts_per_token=2, router_softmax="all"))
PLAIN = replace(QWEN, gate="none", mlp_bias=True)
TOKENS = np.random.default_rng(0).integers(37, size=(8, 21), dtype=np.int32)
BATCH = jnp.asarray(TOKENS[:, :-1]), jnp.asarray(TOKENS[:, 1:])


@pytest.fixture(params=[CONFIG, QWEN, PLAIN], ids=["chosen clamped", "all silu", "all gelu"])
def config(request):
    return request.param


def of_each(x, *, router, experts, up, down, gate=None, activation="none", limit=0.3, alpha=1.702):
    """Every expert of every token, by a gate that is 0 where it is not chosen."""
    scores = x @ router["weight"] + router.get("bias", 0)
    order = jnp.argsort(-scores, axis=-1)
    chosen = jnp.zeros(scores.shape, bool)
    for place in range(experts.experts_per_token):
        chosen |= jnp.arange(experts.num_experts) == order[..., place, None]
    if experts.router_softmax == "chosen":
        shares = jax.nn.softmax(jnp.where(chosen, scores, -jnp.inf))
    else:
        shares = jnp.where(chosen, jax.nn.softmax(scores), 0)
    out = 0
    for n in range(experts.num_experts):
        wide = x @ up["weight"][n] + up.get("bias", jnp.zeros(experts.num_experts))[n]
        if activation == "none":
            hidden = jax.nn.gelu(wide)
        else:
            opened = x @ gate["weight"][n] + gate.get("bias", jnp.zeros(experts.num_experts))[n]
            if activation == "silu":
                hidden = jax.nn.silu(opened) * wide
            else:
                opened, wide = jnp.minimum(opened, limit), jnp.clip(wide, -limit, limit)
                hidden = opened * jax.nn.sigmoid(alpha * opened) * (wide + 1)
        made = hidden @ down["weight"][n] + down.get("bias", jnp.zeros(experts.num_experts))[n]
        out += shares[..., n, None] * made
    return out


def arguments(config, random_params):
    mlp = jax.tree.map(lambda leaf: leaf[0], random_params(config)["blocks"]["mlp"])
    mlp = jax.tree.map(lambda leaf: 5 * leaf, mlp)  # so that some are clamped
    return mlp, {"experts": config.experts} | (
        {} if config.gate == "none" else {"activation": config.gate}
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape",
    [(2, 9, 16), *(pytest.param(x, marks=pytest.mark.whole_run) for x in ((1, 1, 16), (7, 16)))],
)
def test_the_mixture_and_its_gradients_are_a_loop_over_experts(config, shape, random_params, agree):
    mlp, form = arguments(config, random_params)
    x = jax.random.normal(jax.random.key(1), shape)
    if config.gate == "clamped":
        form |= {"limit": 0.3, "alpha": 1.5}

    def run(mix, x, mlp):
        return jnp.sin(mix(x, **mlp, **form)).sum()

    agree(mix_experts(x, **mlp, **form), of_each(x, **mlp, **form), 1e-6)
    ours, wanted = (
        jax.jit(jax.grad(partial(run, mix), (0, 1)))(x, mlp) for mix in (mix_experts, of_each)
    )
    agree(ours, wanted, 1e-5)


@pytest.mark.slow
def test_experts_that_no_token_goes_to_have_no_gradient(random_params):
    mlp, form = arguments(CONFIG, random_params)
    mlp["router"]["bias"] = jnp.array([0.0, 0, 0, 0, -99, -99])
    x = jax.random.normal(jax.random.key(1), (3, 20, 16))
    grads = jax.grad(lambda mlp: mix_experts(x, **mlp, **form).sum())(mlp)
    assert not jnp.any(grads["down"]["weight"][4:])
    assert jnp.all(jnp.any(grads["down"]["weight"][:4], axis=(1, 2)))


@pytest.mark.slow
def test_decoding_and_padding_change_nothing(config, random_params, agree):
    params = random_params(config)
    logits = GPT(config, params)(BATCH[0][:2])
    cache, found = init_cache(config, 2, 24), []
    decode = jax.jit(GPT(config, params).decode)
    padded = jnp.pad(BATCH[0][:2, :7], ((0, 0), (0, 4)))  # the padding goes through experts too
    for start, tokens in [(0, padded), *((i, BATCH[0][:2, i, None]) for i in range(7, 20))]:
        last = jnp.full(2, 6 if start == 0 else 0)
        out, cache = decode(tokens, cache, jnp.full(2, start), last)
        found.append(out)
    agree(jnp.stack(found, 1), logits[:, 6:], 2e-6)


@pytest.mark.whole_run
def test_several_texts_in_a_row_are_as_alone(random_params, agree):
    params, lengths = random_params(CONFIG), (5, 9, 6)
    model, segments = GPT(CONFIG, params), jnp.repeat(jnp.arange(3), jnp.array(lengths))[None]
    packed, start = model.hidden(BATCH[0][:1], segments=segments), 0
    for length in lengths:
        alone = model.hidden(BATCH[0][:1, start : start + length])
        agree(packed[:, start : start + length], alone, 2e-6)
        start += length


@pytest.mark.slow
def test_recording_sees_scores_and_weights_that_leave_a_share_to_the_sink(random_params, agree):
    params = random_params(CONFIG)
    found = activations(GPT(CONFIG, params), BATCH[0][:2])
    assert [*found] == recorded_names(CONFIG)
    assert found["blocks.0.mlp.router"].shape == (2, 20, 6)
    scores, weights = (found[f"blocks.1.attn.{name}"] for name in ("scores", "weights"))
    sinks = jnp.broadcast_to(params["blocks"]["attn"]["sinks"][1][:, None, None], (2, 4, 20, 1))
    masked = jnp.where(jnp.tri(20, dtype=bool), scores, -jnp.inf)
    whole = jax.nn.softmax(jnp.concatenate([masked, sinks], axis=-1))
    agree(weights, whole[..., :-1], 1e-6)
    agree(found["logits"], GPT(CONFIG, params)(BATCH[0][:2]), 2e-6)


def test_a_sink_far_above_or_below_the_scores():
    rows = jax.random.normal(jax.random.key(0), (3, 1, 2, 9, 8))
    plain = attend_causally(*rows)
    sunk = attend_causally(*rows, sinks=jnp.array([-1e4, 1e4]))
    np.testing.assert_array_equal(sunk[:, 0], plain[:, 0])
    np.testing.assert_array_equal(sunk[:, 1], 0)


def test_no_kernel_has_sinks():
    shape = (1, 2, 128, 64)
    assert choose_attention("auto", shape, "bfloat16", sinks=True) == "chunked"
    given = {"sinks": True, "device": Device("cuda", 9.0, 1)}
    assert choose_attention("auto", shape, "bfloat16", **given) == "chunked"
    with pytest.raises(ConfigError, match="cudnn needs softmax over keys alone, without sinks"):
        choose_attention("cudnn", shape, "bfloat16", **given)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, *(pytest.param(x, marks=pytest.mark.whole_run) for x in ({"remat": True}, {"unroll": 3}))],
    ids=str,
)
def test_the_loss_in_training_adds_the_imbalance(config, options, random_params, agree):
    params, weight = random_params(config), config.experts.router_balance
    loss = jax.jit(next_token_loss(config, Compute(**options)))
    targets = BATCH[1].at[0, 9:].set(-100)
    (plain, count), (nats, same) = (loss(params, (BATCH[0], targets), rng) for rng in KEYS)
    assert count == same == targets.size - 11
    router = activations(GPT(config, params), BATCH[0], "blocks.*.mlp.router")
    scores = jnp.stack([*router.values()])[:, targets >= 0].reshape(-1, 6)
    chosen = jax.lax.top_k(scores, config.experts.experts_per_token)[1]
    shares = jax.nn.one_hot(chosen, 6).sum(1).mean(0), jax.nn.softmax(scores).mean(0)
    agree(nats - plain, weight * 6 * shares[0] @ shares[1] * count, 1e-4)


KEYS = None, jax.random.key(0)


def test_balance_is_the_experts_of_a_token_where_all_are_equally_busy():
    assert imbalance(jnp.array([[20.0, 20, 20], [10, 10, 10]])) == 2
    assert imbalance(jnp.array([[30.0, 30, 0], [15, 15, 0]])) == 3
    assert imbalance(jnp.zeros((2, 3))) == 0


@pytest.mark.slow
def test_a_gradient_of_the_balance_makes_busy_experts_less_likely(random_params):
    params = random_params(QWEN)
    config = replace(QWEN, experts=replace(QWEN.experts, router_balance=100.0))
    key, loss = jax.random.key(0), next_token_loss(config)

    def imbalanced(params):
        heavy, _ = loss(params, BATCH, key)
        return heavy - loss(params, BATCH, None)[0]

    step = jax.jit(jax.value_and_grad(imbalanced))
    first, grads = step(params)
    moved = jax.tree.map(lambda leaf, grad: leaf - 1e-5 * grad, params, grads)
    assert step(moved)[0] < first


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["fsdp=4", "fsdp=2,tensor=2"])
def test_devices_do_not_change_loss_and_gradients(layout, random_params, agree):
    params, key = random_params(CONFIG), jax.random.key(0)
    config = TrainConfig(model=CONFIG, batch_size=8, mesh=layout)
    mesh, loss = make_mesh(config), next_token_loss(CONFIG)
    step = partial(gradients, loss)
    wanted = jax.jit(step)(params, BATCH, key)
    placed = jax.device_put(params, state_shardings(params, mesh))
    rows = jax.device_put(BATCH, batch_sharding(mesh))
    ours = jax.jit(on_mesh(step, mesh))(placed, rows, key)
    agree(ours, wanted, 1e-5)


@pytest.mark.slow
def test_experts_are_matrices_to_all_who_read_the_schema():
    params = init_params(CONFIG, jax.random.key(0))
    mlp, attn = params["blocks"]["mlp"], params["blocks"]["attn"]
    assert attn["sinks"].shape == (3, 4)
    assert mlp["router"]["weight"].shape == (3, 16, 6)
    assert mlp["up"]["weight"].shape == mlp["gate"]["weight"].shape == (3, 6, 16, 8)
    assert mlp["down"]["bias"].shape == (3, 6, 16)
    assert labels(params)["blocks"]["mlp"]["up"]["weight"] == "muon"
    decays = decay_mask(params)["blocks"]
    assert decays["mlp"]["router"]["weight"]
    assert decays["mlp"]["down"]["weight"]
    assert not decays["attn"]["sinks"]
    assert not decays["mlp"]["up"]["bias"]


def test_a_low_rank_adapter_for_each_expert(random_params, agree):
    params, lora = random_params(QWEN), LoraConfig(rank=2, targets=("up", "down"))
    adapters = init_adapters(params, lora, jax.random.key(0))
    assert adapters["up"]["A"].shape == (3, 6, 16, 2)
    adapters = jax.tree.map(lambda leaf: leaf + 1, adapters)
    ours = merge(params, adapters, lora)["blocks"]["mlp"]["up"]["weight"][1, 4]
    change = lora.scale * adapters["up"]["A"][1, 4] @ adapters["up"]["B"][1, 4]
    agree(ours, params["blocks"]["mlp"]["up"]["weight"][1, 4] + change, 1e-6)


@pytest.mark.slow
def test_dense_models_have_the_random_numbers_they_had():
    dense = init_params(replace(QWEN, experts=Experts(), positions="learned"), jax.random.key(0))
    plain = replace(QWEN, experts=Experts(), positions="learned", norm="layer", gate="none")
    for path in ("up", "down"):
        ours = dense["blocks"]["mlp"][path]["weight"]
        other = init_params(plain, jax.random.key(0))["blocks"]["mlp"][path]["weight"]
        np.testing.assert_array_equal(ours, other)


def test_a_token_costs_the_experts_it_goes_through():
    one = replace(QWEN, experts=Experts(num_experts=1, experts_per_token=1))
    per_expert = 3 * 3 * 16 * 8
    assert count_parameters(QWEN) - count_parameters(one) == 5 * per_expert + 3 * 16 * 5
    assert active_parameters(QWEN) == count_parameters(QWEN) - 4 * per_expert
    assert flops_per_token(QWEN) - flops_per_token(one) == 6 * (per_expert + 3 * 16 * 5)
    plan = make_plan(TrainConfig(model=QWEN, batch_size=8))
    assert sum(plan.parameters.values()) == count_parameters(QWEN)


@pytest.mark.parametrize(
    ("experts", "complaint"),
    [
        ({"num_experts": 4, "experts_per_token": 5}, "experts_per_token is 5.*from 1 to 4"),
        ({"num_experts": 4, "experts_per_token": 0}, "experts_per_token is 0.*from 1 to 4"),
        ({"num_experts": -1}, "num_experts is -1"),
        ({"router_balance": -0.1}, "router_balance is -0.1"),
    ],
)
def test_experts_that_cannot_be_are_refused(experts, complaint):
    with pytest.raises(ConfigError, match=complaint):
        Experts(**experts)


def test_a_gate_without_room_is_refused():
    with pytest.raises(ConfigError, match=r"gate_limit is 0\.0; it must be above 0"):
        replace(CONFIG, gate_limit=0.0)
