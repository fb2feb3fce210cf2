"""Plans agree with the memory analysis of XLA, which has to compile what they do not."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType

from jaxgpt.config import ModelConfig, OptimizerConfig, TrainConfig, get_preset
from jaxgpt.errors import ConfigError, ResourceError
from jaxgpt.model.gpt import init_cache
from jaxgpt.model.parameters import count_parameters, init_params, parameter_shapes
from jaxgpt.training.liveness import nbytes
from jaxgpt.training.mesh import batch_sharding, state_shardings
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.plan import make_plan, multiplies_bfloat16, peak, settle_vocabulary
from jaxgpt.training.plan_report import parse_memory, table, verdict
from jaxgpt.training.pretrain import make_step
from jaxgpt.training.step import init_state

SIZES = ("num_layers", "num_heads", "embed_dim", "context_length", "vocab_size")


def _config(*sizes, batch_size=4, model=None, **settings):
    shape = ModelConfig(**dict(zip(SIZES, sizes, strict=True)), **(model or {}))
    return TrainConfig(model=shape, batch_size=batch_size, **settings)


def _compiled(config, devices=1):
    """Peak and arguments of the compiled step, in bytes on each device."""
    shape = (devices // config.fsdp, config.fsdp)
    axes = ("data", "fsdp"), (AxisType.Auto, AxisType.Auto)
    mesh = jax.make_mesh(shape, *axes, devices=jax.devices()[:devices])
    optimizer = make_optimizer(config.optimizer, config.steps)
    state = jax.eval_shape(lambda p: init_state(p, optimizer), parameter_shapes(config.model))

    def placed(leaf, sharding):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    state = jax.tree.map(placed, state, state_shardings(state, mesh))
    tokens = jax.ShapeDtypeStruct((config.batch_size, config.model.context_length), jnp.int32)
    tokens = placed(tokens, batch_sharding(mesh))
    step = make_step(config, mesh).lower(state, (tokens, tokens), 0).compile()
    sizes = step.memory_analysis()
    given, made = sizes.argument_size_in_bytes, sizes.output_size_in_bytes
    return given + made - sizes.alias_size_in_bytes + sizes.temp_size_in_bytes, given


@pytest.mark.parametrize(
    "config",
    [
        _config(2, 2, 64, 64, 256),
        _config(3, 8, 256, 32, 300, batch_size=1),
        _config(2, 2, 32, 512, 256),
        _config(2, 2, 64, 32, 20_000, batch_size=8),
        _config(2, 2, 64, 64, 256, batch_size=8, model={"dropout": 0.1}),
        _config(4, 4, 64, 128, 256, remat=True),
        _config(8, 4, 64, 64, 256, compute_dtype="bfloat16"),
        _config(
            2, 4, 64, 64, 256, batch_size=16, model={"tie_head": False}, gradient_accumulation=4
        ),
        _config(2, 4, 64, 64, 256, optimizer=OptimizerConfig(optimizer="muon")),
    ],
    ids=["plain", "wide", "long", "words", "dropout", "remat", "bfloat16", "accumulated", "muon"],
)
def test_the_peak_is_what_xla_says(config):
    needed, given = _compiled(config)
    plan = make_plan(config, bfloat16=multiplies_bfloat16())
    assert plan.peak == pytest.approx(needed, rel=0.15)
    assert plan.held == pytest.approx(given, rel=0.01)


def test_devices_share_the_batch():
    config = _config(2, 2, 64, 64, 256, batch_size=16, data_parallel=8)
    needed, given = _compiled(config, 8)
    plan = make_plan(config, 8)
    assert plan.peak == pytest.approx(needed, rel=0.15)
    assert plan.held == pytest.approx(given, rel=0.01)
    assert plan.micro_batch == 2


def test_devices_share_the_parameters():
    config = _config(2, 2, 64, 64, 256, batch_size=16, fsdp=4)
    plan, alone = make_plan(config, 8), make_plan(replace(config, fsdp=1), 8)
    assert plan.held == pytest.approx(_compiled(config, 8)[1], rel=0.01)
    assert plan.parameters == alone.parameters
    assert alone.gradients / 4 < plan.gradients < alone.gradients / 3.5  # biases are not shared
    assert plan.peak < alone.peak
    assert plan.kept == alone.kept


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
    assert plan.cache == sum(map(nbytes, jax.tree.leaves(init_cache(config.model, 1, 64))))
    assert plan.flops_per_step == plan.flops_per_token * 4 * 64


def test_activations_grow_with_the_batch_and_the_layers_and_shrink_by_remat():
    config = _config(2, 2, 64, 64, 256)
    kept = make_plan(config).kept
    assert make_plan(replace(config, batch_size=8)).kept == 2 * kept
    assert make_plan(_config(4, 2, 64, 64, 256)).kept > 1.5 * kept
    assert make_plan(replace(config, remat=True)).kept < kept / 2
    cut = replace(config, batch_size=16, gradient_accumulation=4)
    assert make_plan(cut).kept == kept
    # Of each layer, what comes in is kept at least.
    assert make_plan(replace(config, remat=True)).kept >= 2 * 4 * 64 * 64 * 4


def test_bfloat16_halves_what_is_kept_but_where_it_is_widened():
    config = _config(2, 2, 64, 64, 256)
    narrow = replace(config, compute_dtype="bfloat16")
    kept = make_plan(config).kept
    assert kept / 2 <= make_plan(narrow).kept < 0.6 * kept
    assert kept <= make_plan(narrow, bfloat16=False).kept < 1.2 * kept
    assert make_plan(narrow).cast == make_plan(config).gradients / 2


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


def test_what_does_not_fit_is_told_what_would_do():
    config = _config(4, 2, 64, 64, 256, batch_size=12)
    plan = make_plan(config)
    assert verdict(config, plan, plan.peak) == f"fits: 100.0% of {plan.peak / 1e6:.1f} MB"
    memory = int(plan.peak * 0.6)
    said = verdict(config, plan, memory)
    assert said.startswith("does not fit in ")
    cut = int(said.split("set --gradient-accumulation ")[1].split()[0])
    assert f"(micro-batch {12 // cut})" in said
    assert "or --remat --gradient-accumulation " in said
    assert peak(replace(config, gradient_accumulation=cut)) <= memory
    less = {2: 1, 3: 2, 4: 3, 6: 4, 12: 6}[cut]
    assert peak(replace(config, gradient_accumulation=less)) > memory


def test_what_never_fits_is_told_so():
    config = _config(4, 2, 64, 64, 256, batch_size=2)
    plan = make_plan(config)
    alone = plan.held + plan.gradients
    assert "--fsdp, or choose a smaller" in verdict(config, plan, alone - 1)
    assert "not even one window at a time" in verdict(config, plan, alone + 1)


def test_the_table_is_aligned_and_adds_up():
    config = _config(2, 2, 64, 64, 256, fsdp=2)
    plan = make_plan(config, 4)
    lines = table(config, plan, 4).splitlines()
    assert lines[:2] == [
        "2 layers, 2 heads, width 64, T=64, V=256, float32",
        "on each of 4 devices, 2 of which share parameters:",
    ]
    assert len({len(line) for line in lines[2:] if line}) == 1
    assert f"{count_parameters(config.model):,}" in lines[2]
    assert not any("parameters in float32" in line for line in lines)
    (size,) = (line.split()[-2] for line in lines if line.startswith("predicted peak"))
    assert float(size) == pytest.approx(plan.peak / 1e6, abs=0.06)
