"""The kernels, without a GPU or TPU: what is chosen, what is lowered, and the same numbers."""

import re
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxgpt.compute import Compute
from jaxgpt.config import ModelConfig
from jaxgpt.errors import ConfigError
from jaxgpt.model import attention_kernels
from jaxgpt.model.attention import attend_causally, multi_head_attention
from jaxgpt.model.attention_kernels import (
    KERNELS,
    Device,
    attend_cudnn,
    attend_splash,
    choose_attention,
    keep_products_and_kernels,
    this_device,
)
from jaxgpt.model.parameters import init_block, parameter_shapes
from jaxgpt.training.loss import next_token_loss

A100, H200, TPU = Device("cuda", 8.0), Device("cuda", 9.0), Device("tpu")
DEVICES = {"cudnn": H200, "splash": TPU}
PLATFORMS = {"cudnn": "cuda", "splash": "tpu"}
FORWARD = {"cudnn": "__cudnn$fmhaSoftmax", "splash": "splash_mha_fwd_residuals"}
BACKWARD = {
    "cudnn": {"__cudnn$fmhaSoftmaxBackward"},
    "splash": {"splash_mha_dq_no_residuals", "splash_mha_dkv_no_residuals"},
}
GPT2 = (2, 12, 1024, 64)


@pytest.fixture(autouse=True)
def cudnn(monkeypatch):
    """JAX asks which cuDNN is installed before it writes a call to it; here there is none."""
    found = "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version"
    monkeypatch.setattr(found, lambda: 91000)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def lowered(function, *shapes, platform):
    """The names of the kernels that `function` calls on `platform`, in order."""
    checks = [FORWARD["cudnn"], *BACKWARD["cudnn"]]
    exported = export.export(
        jax.jit(function),
        platforms=[platform],
        disabled_checks=[export.DisabledSafetyCheck.custom_call(name) for name in checks],
    )(*shapes)
    text = exported.mlir_module()
    calls = re.findall(r'custom_call @"?(__cudnn[\w$]+)|kernel_name = "(splash\w+)"', text)
    return ["".join(names) for names in calls], text


def whole(function):
    """The sum of what `function` returns in float32, to be differentiated."""
    return lambda *args: function(*args).astype(jnp.float32).sum()


@pytest.mark.parametrize(
    ("kernel", "device", "dtype", "shape", "rate"),
    [
        ("cudnn", H200, "bfloat16", GPT2, 0.0),
        ("cudnn", A100, "bfloat16", (2, 12, 77, 128), 0.0),
        ("cudnn", H200, "float16", (2, 12, 1024, 8), 0.0),
        ("cudnn", Device("cuda", 9.0, count=8), "bfloat16", (3, 12, 1024, 64), 0.0),
        ("chunked", H200, "float32", GPT2, 0.0),
        ("chunked", H200, "bfloat16", GPT2, 0.1),
        ("chunked", H200, "bfloat16", (2, 12, 1024, 60), 0.0),
        ("chunked", H200, "bfloat16", (2, 12, 1024, 256), 0.0),
        ("chunked", Device("cuda", 7.5), "bfloat16", GPT2, 0.0),
        ("chunked", Device("gpu"), "bfloat16", GPT2, 0.0),
        ("chunked", Device("cpu"), "bfloat16", GPT2, 0.0),
        ("splash", TPU, "bfloat16", GPT2, 0.0),
        ("splash", Device("tpu", count=4, mesh_size=4), "bfloat16", (8, 12, 128, 128), 0.0),
        ("chunked", Device("tpu", count=4), "bfloat16", (8, 12, 128, 128), 0.0),
        ("chunked", Device("tpu", count=4, mesh_size=2), "bfloat16", (8, 12, 128, 128), 0.0),
        ("chunked", Device("tpu", count=4, mesh_size=4), "bfloat16", (6, 12, 128, 128), 0.0),
        ("chunked", TPU, "float32", GPT2, 0.0),
        ("chunked", TPU, "bfloat16", GPT2, 0.1),
        ("chunked", TPU, "bfloat16", (2, 12, 1000, 64), 0.0),
        ("chunked", TPU, "bfloat16", (2, 12, 1024, 80), 0.0),
    ],
)
def test_auto_takes_the_kernel_where_it_can(kernel, device, dtype, shape, rate):
    assert choose_attention("auto", shape, dtype, dropout_rate=rate, device=device) == kernel
    assert choose_attention("chunked", shape, dtype, dropout_rate=rate, device=device) == "chunked"


@pytest.mark.parametrize(
    ("kernel", "device", "dtype", "shape", "rate", "message"),
    [
        ("cudnn", Device("cpu"), "bfloat16", GPT2, 0.0, "an NVIDIA GPU, not cpu"),
        ("cudnn", Device("cuda", 7.5), "bfloat16", GPT2, 0.0, "8.0 or more, not 7.5"),
        ("cudnn", H200, "float32", GPT2, 0.0, "bfloat16, not float32"),
        ("cudnn", H200, "bfloat16", (2, 12, 64, 60), 0.0, "multiple of 8 up to 128, not 60"),
        ("cudnn", H200, "bfloat16", GPT2, 0.1, "dropout 0, not 0.1"),
        ("splash", H200, "bfloat16", GPT2, 0.0, "a TPU, not cuda"),
        ("splash", TPU, "float32", GPT2, 0.0, "bfloat16, not float32"),
        ("splash", TPU, "bfloat16", (2, 12, 100, 64), 0.0, "a multiple of 128 tokens, not 100"),
        ("splash", TPU, "bfloat16", (2, 12, 128, 80), 0.0, "a multiple of 64, not 80"),
        ("splash", Device("tpu", count=4), "bfloat16", GPT2, 0.0, "all 4 devices"),
        ("splash", TPU, "bfloat16", GPT2, 0.1, "dropout 0, not 0.1"),
    ],
)
def test_an_impossible_wish_says_what_is_missing(kernel, device, dtype, shape, rate, message):
    whole_message = f"^attention {kernel} needs .*{message}.*; take auto or chunked$"
    with pytest.raises(ConfigError, match=whole_message):
        choose_attention(kernel, shape, dtype, dropout_rate=rate, device=device)


@pytest.mark.parametrize(
    ("version", "capability", "device"),
    [("cuda 13000", "9.0", H200), ("rocm 60300", "gfx942", Device("gpu"))],
)
def test_a_gpu_is_known_by_its_client(version, capability, device, monkeypatch):
    client = SimpleNamespace(platform_version=f"PJRT C API\n{version}")
    gpu = SimpleNamespace(platform="gpu", compute_capability=capability, client=client)
    monkeypatch.setattr(jax, "devices", lambda: [gpu])
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert this_device() == device


def init_attention(width):
    config = ModelConfig(num_layers=1, num_heads=2, embed_dim=width)
    return init_block(config, jax.random.key(0))["attn"]


def test_a_cpu_has_no_kernel():
    assert this_device() == Device("cpu", count=8)
    x, params = normal(2, 6, 8), init_attention(8)
    with pytest.raises(ConfigError, match="an NVIDIA GPU, not cpu"):
        multi_head_attention(x, **params, num_heads=2, attention="cudnn")


def close(new, old, length, width):
    """Equal but for the roundings of two products over K and one over T in float32."""
    atol = (length + 2 * width) * 2.0**-24 * float(jnp.abs(old).max())
    np.testing.assert_allclose(new, old, atol=atol, rtol=0)


def in_xla(*arrays, is_causal, implementation, attend=jax.nn.dot_product_attention, **bounds):
    assert implementation == "cudnn"
    return attend(*arrays, is_causal=is_causal, implementation="xla", **bounds)


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("kernel", "length"), [("cudnn", 48), ("splash", 128), ("splash", 384)], ids=str
)
def test_a_kernel_gives_the_context_and_gradient_of_the_plain_function(kernel, length, monkeypatch):
    """The splash kernel itself, interpreted; of cuDNN's what it is asked, answered by XLA."""
    monkeypatch.setattr(jax.nn, "dot_product_attention", in_xla)
    shape = 2, 2, length, 64
    *qkv, out_grad = (normal(*shape, seed=seed) for seed in range(4))

    def contexts_and_gradients(attend):
        contexts, pullback = jax.vjp(attend, *qkv)
        return contexts, *pullback(out_grad)

    def interpreted(*qkv):
        return attend_splash(*qkv, interpret=True)

    function = attend_cudnn if kernel == "cudnn" else interpreted
    new = jax.jit(lambda: contexts_and_gradients(function))()
    old = jax.jit(lambda: contexts_and_gradients(attend_causally))()
    for new_leaf, old_leaf in zip(new, old, strict=True):
        close(new_leaf, old_leaf, length, width=64)


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "window"), [(2, 0), (1, 5), (4, 130)])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_takes_windows_scales_and_shared_keys_as_they_are(
    kernel, groups, window, monkeypatch
):
    monkeypatch.setattr(jax.nn, "dot_product_attention", in_xla)
    queries, out_grad = normal(1, 4, 256, 64), normal(1, 4, 256, 64, seed=3)
    met = [normal(1, groups, 256, 64, seed=seed) for seed in (1, 2)]
    interpret = {} if kernel == "cudnn" else {"interpret": True}

    def contexts_and_gradients(attend, **options):
        bound = partial(attend, scale=0.1, window=window, **options)
        contexts, pullback = jax.vjp(bound, queries, *met)
        return contexts, *pullback(out_grad)

    new = jax.jit(lambda: contexts_and_gradients(KERNELS[kernel], **interpret))()
    old = jax.jit(lambda: contexts_and_gradients(attend_causally))()
    for new_leaf, old_leaf in zip(new, old, strict=True):
        # What comes to a key's gradient is summed over the queries of the heads that share it.
        close(new_leaf, old_leaf, 256 * 4 // groups, width=64)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_block_gives_a_kernel_no_copies_of_keys(kernel, monkeypatch):
    monkeypatch.setattr(attention_kernels, "this_device", lambda: DEVICES[kernel])
    shape = {"context_length": 128, "num_heads": 8, "head_dim": 64, "num_kv_heads": 2}
    model = ModelConfig(300, num_layers=3, embed_dim=32, window=16, window_period=3, **shape)
    given = []

    def watched(queries, keys, values, **bounds):
        given.append((keys.shape, bounds.get("window", 0)))
        return queries

    monkeypatch.setitem(KERNELS, kernel, watched)
    loss = next_token_loss(model, Compute("bfloat16", unroll=3))
    tokens = jax.ShapeDtypeStruct((2, 128), jnp.int32)
    jax.eval_shape(loss, parameter_shapes(model), (tokens, tokens), None)
    assert {shape for shape, _ in given} == {(2, 2, 128, 64)}
    assert {window for _, window in given} == {0, 16}


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_is_called_on_its_platform(kernel):
    x = jax.ShapeDtypeStruct(GPT2, jnp.bfloat16)
    attend = KERNELS[kernel]
    forward, text = lowered(attend, x, x, x, platform=PLATFORMS[kernel])
    assert len(forward) == 1
    assert forward[0].startswith(FORWARD[kernel].removesuffix("_residuals"))
    if kernel == "cudnn":
        assert "fmha_scale\\22: 0.125" in text
        assert "CAUSAL" in text
    gradient = jax.grad(whole(attend), (0, 1, 2))
    both, _ = lowered(gradient, x, x, x, platform=PLATFORMS[kernel])
    assert both[0] == FORWARD[kernel]
    assert len(both) == 1 + len(BACKWARD[kernel])
    assert set(both[1:]) == BACKWARD[kernel]


def test_windows_and_shared_keys_are_what_cudnn_is_asked_for():
    queries, keys = (jax.ShapeDtypeStruct((2, heads, 1024, 64), jnp.bfloat16) for heads in (12, 3))
    attend = partial(attend_cudnn, window=128, scale=0.5)
    gradient = jax.grad(whole(attend), (0, 1, 2))
    calls, text = lowered(gradient, queries, keys, keys, platform="cuda")
    assert set(calls) == BACKWARD["cudnn"] | {FORWARD["cudnn"]}
    assert "sliding_window_length\\22: 128" in text
    assert "fmha_scale\\22: 0.5" in text
    assert "tensor<2x1024x3x64xbf16>" in text.partition("custom_call")[2]


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_checkpointed_layer_runs_the_kernel_forward_once(kernel):
    x = jax.ShapeDtypeStruct((2, 2, 128, 64), jnp.bfloat16)

    def layers(x, policy):
        def layer(x, _):
            return KERNELS[kernel](x, x, x), None

        body = jax.checkpoint(layer, prevent_cse=False, policy=policy)
        return whole(lambda x: jax.lax.scan(body, x, length=2)[0])(x)

    def forward_calls(policy):
        gradient = jax.grad(lambda x: layers(x, policy))
        return lowered(gradient, x, platform=PLATFORMS[kernel])[0].count(FORWARD[kernel])

    assert forward_calls(keep_products_and_kernels) == 1
    assert forward_calls(jax.checkpoint_policies.dots_with_no_batch_dims_saveable) == 2


@pytest.mark.slow_but_first
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_gradient_of_a_training_loss_lowers(platform, dtype, monkeypatch):
    kernel = {"cuda": "cudnn", "tpu": "splash"}[platform]
    monkeypatch.setattr(attention_kernels, "this_device", lambda: DEVICES[kernel])
    shape = {"context_length": 128, "num_layers": 2, "num_heads": 2, "embed_dim": 128}
    model = ModelConfig(vocab_size=300, **shape)
    loss = next_token_loss(model, Compute(dtype))
    tokens = jax.ShapeDtypeStruct((2, 128), jnp.int32)
    gradient = jax.grad(lambda params, batch: loss(params, batch, None)[0])
    calls, _ = lowered(gradient, parameter_shapes(model), (tokens, tokens), platform=platform)
    assert set(calls) == (BACKWARD[kernel] | {FORWARD[kernel]} if dtype == "bfloat16" else set())


def test_dropout_in_training_alone_keeps_from_the_kernel(monkeypatch):
    monkeypatch.setattr(attention_kernels, "this_device", lambda: H200)
    params = init_attention(128)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)

    def attend(x, rng):
        return multi_head_attention(x, **half, num_heads=2, dropout_rate=0.1, rng=rng)

    x = jax.ShapeDtypeStruct((2, 128, 128), jnp.bfloat16)
    evaluation, _ = lowered(lambda x: attend(x, None), x, platform="cuda")
    training, _ = lowered(lambda x: attend(x, jax.random.key(0)), x, platform="cuda")
    assert (evaluation, training) == ([FORWARD["cudnn"]], [])


@pytest.mark.slow
def test_splash_is_shared_among_the_devices_of_a_mesh():
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), (AxisType.Auto, AxisType.Auto))
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    qkv = [jax.device_put(normal(8, 1, 128, 64, seed=seed), rows) for seed in range(3)]
    with jax.set_mesh(mesh):
        assert this_device() == Device("cpu", count=8, mesh_size=8)
        contexts = jax.jit(lambda *qkv: attend_splash(*qkv, interpret=True))(*qkv)
        x = jax.ShapeDtypeStruct((8, 1, 128, 64), jnp.bfloat16, sharding=rows)
        calls, _ = lowered(jax.grad(whole(attend_splash), (0, 1, 2)), x, x, x, platform="tpu")
    assert contexts.sharding.is_equivalent_to(rows, 4)
    close(contexts, attend_causally(*qkv), 128, width=64)
    assert set(calls) == BACKWARD["splash"] | {FORWARD["splash"]}
