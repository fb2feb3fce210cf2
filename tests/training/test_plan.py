"""Plans agree with the memory analysis of XLA, which has to compile what they do not."""

import math
from dataclasses import replace
from functools import partial

import jax
import pytest
from jax.sharding import AxisType

from jaxgpt.config import ModelConfig, TrainConfig
from jaxgpt.errors import ConfigError, ResourceError
from jaxgpt.model.flops import flops_per_token
from jaxgpt.model.gpt import init_cache
from jaxgpt.model.parameters import count_parameters, init_params, parameter_shapes
from jaxgpt.presets import get_preset
from jaxgpt.run_config import OptimizerConfig
from jaxgpt.training.mesh import make_mesh
from jaxgpt.training.plan import compiled_peak, make_plan, multiplies_bfloat16, settle_vocabulary
from jaxgpt.training.plan_report import parse_memory, table, verdict
from jaxgpt.training.run_state import state_template

BOUND = 0.15  # of XLA's figure; the farthest of 60 steps of 4 MB to 26 GB on a CPU was 0.12

SIZES = ("num_layers", "num_heads", "embed_dim", "context_length", "vocab_size")


LLAMA = {
    "norm": "rms",
    "positions": "rope",
    "gate": "silu",
    "num_kv_heads": 2,
    "hidden_dim": 320,
    "qkv_bias": False,
    "out_bias": False,
    "mlp_bias": False,
    "tie_head": False,
}


def _config(*sizes, batch_size=4, model=None, **settings):
    shape = ModelConfig(**dict(zip(SIZES, sizes, strict=True)), **(model or {}))
    return TrainConfig(model=shape, batch_size=batch_size, **settings)


def _tiny(**settings):
    return _config(2, 2, 32, 64, 256, batch_size=16, **settings)


def _one_device():
    axes = ("data", "fsdp"), (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((1, 1), *axes, devices=jax.devices()[:1])


def _held(config, mesh):
    """Bytes of a device's part of the state, without the number of its step, and of the batch."""
    state = state_template(parameter_shapes(config.model), config, mesh)
    parts = ((leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(state))
    batch = config.batch_size // mesh.size * config.model.context_length * 2 * 4
    return batch + sum(math.prod(shape) * dtype.itemsize for shape, dtype in parts) - 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        _tiny(),
        _tiny(remat=True),
        # Wide enough that scores and norms, which stay float32, are few beside the rest.
        _config(2, 4, 128, 64, 256, batch_size=16, compute_dtype="bfloat16"),
        _config(2, 4, 128, 64, 256, batch_size=16, compute_dtype="bfloat16", remat=True),
        _config(2, 2, 32, 512, 256, remat=True),
        _config(2, 2, 64, 32, 20_000, batch_size=8),
        _config(2, 2, 64, 64, 256, batch_size=8, model={"dropout": 0.1}),
        _config(3, 8, 256, 32, 300, model={"tie_head": False}, gradient_accumulation=4),
        _config(2, 4, 64, 64, 256, optimizer=OptimizerConfig(optimizer="muon")),
        _config(4, 4, 128, 64, 256, model=LLAMA),
        _config(4, 4, 64, 64, 256, model={"window": 16, "window_period": 2}),
    ],
    ids=[
        *("tiny", "remat", "bfloat16", "bfloat16-remat"),
        *("long-remat", "words", "dropout", "accumulated", "muon", "llama", "windows"),
    ],
)
def test_the_estimate_is_close_to_what_xla_says(config):
    plan = make_plan(config, bfloat16=multiplies_bfloat16())
    assert plan.peak == pytest.approx(compiled_peak(config, _one_device()), rel=BOUND)
    assert plan.held == _held(config, _one_device())


@pytest.mark.slow
def test_devices_share_the_batch():
    config = _config(2, 2, 64, 64, 256, batch_size=16, data_parallel=8)
    mesh, plan = make_mesh(config), make_plan(config, 8)
    assert plan.peak == pytest.approx(compiled_peak(config, mesh), rel=BOUND)
    assert plan.held == _held(config, mesh)
    assert plan.micro_batch == 2


def test_devices_share_the_parameters():
    config = _config(2, 2, 64, 64, 256, batch_size=16, fsdp=4)
    plan, alone = make_plan(config, 8), make_plan(replace(config, fsdp=1), 8)
    assert plan.held == _held(config, make_mesh(config))
    assert plan.parameters == alone.parameters
    assert alone.gradients / 4 < plan.gradients < alone.gradients / 3.5  # biases are not shared
    assert plan.peak < alone.peak
    assert plan.kept == alone.kept


@pytest.mark.slow
def test_parts_are_counted_as_they_are():
    config = _config(2, 2, 64, 64, 256, model={"tie_head": False})
    plan, params = make_plan(config), init_params(config.model, jax.random.key(0))
    assert sum(plan.parameters.values()) == count_parameters(config.model)
    assert plan.parameters["head"] == 64 * 256 + 2 * 64
    assert plan.parameters["embeddings"] == (256 + 64) * 64
    assert plan.gradients == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert plan.optimizer == pytest.approx(2 * plan.gradients, abs=20)
    assert plan.cast == 0
    assert plan.batch == 2 * 4 * 64 * 4
    cache = jax.tree.leaves(init_cache(config.model, 1, 64))
    assert plan.cache == sum(array.nbytes for array in cache)
    assert plan.flops_per_step == plan.flops_per_token * 4 * 64


@pytest.mark.parametrize("period", [0, 2, 3])
def test_layers_with_a_window_have_a_cache_no_longer_than_it(period):
    config = _config(5, 2, 64, 64, 256, model={"window": 16, "window_period": period})
    cache = jax.tree.leaves(init_cache(config.model, 1, 64))
    assert make_plan(config).cache == sum(array.nbytes for array in cache)
    assert {array.shape[2] for array in cache} == ({16, 64} if period else {16})


def test_operations_are_those_of_products():
    """6 for each number of a matrix, and 12 for each number of a key that is seen."""
    model = _config(4, 4, 64, 128, 300, model=LLAMA | {"window": 32, "window_period": 4}).model
    matrices = 4 * (64 * (64 + 2 * 32) + 64 * 64 + 3 * 64 * 320) + 64 * 300
    norms = (2 * 4 + 1) * 64
    seen = 3 * 32 + 128
    assert flops_per_token(model) == 6 * (matrices + norms) + 12 * 64 * seen
    tied = replace(model, tie_head=True)
    assert flops_per_token(tied) == flops_per_token(model)


def test_activations_grow_with_the_batch_and_the_layers_and_shrink_by_remat():
    config = _config(2, 2, 64, 64, 256)
    kept = make_plan(config).kept
    assert kept == 2 * 4 * 64 * 4 * (2 * 64 + 3 * 64 + 4 * 64)
    assert make_plan(replace(config, batch_size=8)).kept == 2 * kept
    assert make_plan(_config(4, 2, 64, 64, 256)).kept == 2 * kept
    assert make_plan(replace(config, remat=True)).kept == 2 * 4 * 64 * 4 * 64
    assert make_plan(replace(config, batch_size=16, gradient_accumulation=4)).kept == kept


def test_bfloat16_halves_what_linear_layers_give_but_where_it_is_widened():
    config = _config(2, 2, 64, 64, 256)
    narrow = replace(config, compute_dtype="bfloat16")
    plan = make_plan(config)
    comes_in = make_plan(replace(config, remat=True)).kept
    assert make_plan(narrow, bfloat16="none").kept == plan.kept
    assert 2 * (make_plan(narrow).kept - comes_in) == plan.kept - comes_in
    assert make_plan(replace(narrow, remat=True)).kept == comes_in
    assert make_plan(narrow).cast == plan.gradients / 2
    assert make_plan(narrow, bfloat16="none").cast == plan.gradients
    plain = make_plan(narrow, bfloat16="plain")
    assert (plain.kept, plain.cast) == (make_plan(narrow).kept, plan.gradients)


@pytest.mark.parametrize(
    ("tokenizer", "vocab_size", "expected"),
    [
        ("bytes", 0, 256),
        ("gpt2", 0, 50257),
        ("bpe:2048", 0, 2048),
        ("bytes", 300, 300),
        ("cl100k_base", 100_277, 100_277),
    ],
)
def test_the_vocabulary_is_known_without_the_tokenizer(tokenizer, vocab_size, expected):
    config = get_preset("tiny")
    config = replace(
        config,
        model=replace(config.model, vocab_size=vocab_size),
        data=replace(config.data, tokenizer=tokenizer),
    )
    assert settle_vocabulary(config).model.vocab_size == expected


def test_a_tokenizer_in_a_folder_is_counted(tmp_path):
    from jaxgpt.tokenization.words import WordTokenizer

    words = WordTokenizer(["a", "b", "c"])
    words.save(tmp_path)
    config = get_preset("tiny")
    config = replace(config, data=replace(config.data, tokenizer=str(tmp_path)))
    assert settle_vocabulary(config).model.vocab_size == words.vocab_size


def test_a_vocabulary_that_cannot_be_known_names_the_flag():
    config = get_preset("tiny")
    config = replace(config, data=replace(config.data, tokenizer="cl100k_base"))
    with pytest.raises(ConfigError, match="cl100k_base has is not known; set --vocab-size"):
        settle_vocabulary(config)


def test_a_model_that_no_machine_holds_is_refused_at_once():
    with pytest.raises(ResourceError, match="choose a smaller model"):
        make_plan(_config(2**31 - 1, 2, 2**12, 64, 256))


@pytest.mark.parametrize(
    ("text", "memory"),
    [("80GB", 80e9), ("16 GiB", 2**34), ("1.5tb", 1.5e12), ("512MB", 512e6)],
)
def test_sizes_are_read(text, memory):
    assert parse_memory(text) == memory


@pytest.mark.parametrize("text", ["80", "GB", "0GB", "-1GB", "80 parsecs", "nanGB", "1e9GB", ""])
def test_other_sizes_are_refused(text):
    with pytest.raises(ConfigError, match="write a number with its unit, such as 80GB"):
        parse_memory(text)


def _estimate(config):
    return make_plan(config).peak


def test_what_does_not_fit_is_told_what_would_do():
    config = _config(4, 2, 64, 64, 256, batch_size=12)
    plan = make_plan(config)
    say = partial(verdict, config, plan, peak_of=_estimate)
    assert say(plan.peak) == f"fits: 100.0% of {plan.peak / 1e6:.1f} MB"
    memory = int(plan.peak * 0.6)
    said = say(memory)
    assert said.startswith("does not fit in ")
    cut = int(said.split("set --gradient-accumulation ")[1].split()[0])
    assert f"(micro-batch {12 // cut})" in said
    assert "or --remat --gradient-accumulation " in said
    assert _estimate(replace(config, gradient_accumulation=cut)) <= memory
    less = {2: 1, 3: 2, 4: 3, 6: 4, 12: 6}[cut]
    assert _estimate(replace(config, gradient_accumulation=less)) > memory


def test_what_never_fits_is_told_so():
    config = _config(4, 2, 64, 64, 256, batch_size=2)
    plan = make_plan(config)
    alone, say = plan.held + plan.gradients, partial(verdict, config, plan, peak_of=_estimate)
    assert "--fsdp, or choose a smaller" in say(alone - 1)
    assert "not even one window at a time" in say(alone + 1)


def test_the_table_is_aligned_and_adds_up():
    config = _config(2, 2, 64, 64, 256, fsdp=2)
    plan = make_plan(config, 4)
    lines = table(config, plan, 4, compiled=3_000_000).splitlines()
    assert lines[:2] == [
        "2 layers, 2 heads, width 64, T=64, V=256, float32",
        "on each of 4 devices, 2 of which share parameters:",
    ]
    assert len({len(line) for line in lines[2:] if line}) == 1
    assert f"{count_parameters(config.model):,}" in lines[2]
    assert not any("parameters in float32" in line for line in lines)
    sizes = {line[:14]: line.split()[-2] for line in lines if "peak" in line}
    assert float(sizes["estimated peak"]) == pytest.approx(plan.peak / 1e6, abs=0.06)
    assert sizes["peak of the st"] == "3.0"
    assert not any("XLA" in line for line in table(config, plan, 4).splitlines())
