"""The benchmark measures the same work, says who else was at work, and refuses other work."""

import math
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jaxgpt.benchmark import (
    children,
    contenders,
    decoding,
    jax_trainer,
    torch_trainer,
    training,
    turns,
)
from jaxgpt.benchmark import machine as rates
from jaxgpt.benchmark.contenders import CONTENDERS, Unavailable, choose
from jaxgpt.benchmark.report import bars, table, to_json
from jaxgpt.benchmark.torch_trainer import measure_torch_products
from jaxgpt.benchmark.turns import share_of_others, take_turns, verdict
from jaxgpt.benchmark.workload import SHAPES, get_shape, load_start, make_batches, save_start
from jaxgpt.config import ModelConfig
from jaxgpt.errors import ConfigError, JaxgptError
from jaxgpt.model.flops import flops_per_token
from jaxgpt.model.parameters import count_parameters
from jaxgpt.parity import torch_reference

CONFIG = get_shape(
    "tiny",
    vocab_size=31,
    context_length=16,
    num_layers=2,
    num_heads=2,
    embed_dim=16,
    batch_size=2,
    gradient_accumulation=2,
)


@pytest.fixture(autouse=True)
def quick_rates(monkeypatch):
    monkeypatch.setattr(training, "measure_rates", lambda: rates.measure_rates(16, 1))


@pytest.fixture
def no_torch(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)


# --- training ---


@pytest.mark.whole_run
def test_all_who_train_take_the_same_steps():
    report = training.measure_training(
        CONFIG, ["jaxgpt", "torch", "jaxgpt-bf16", "torch-bf16"], turns=2, steps=2
    )
    assert not report.left_out
    assert [row["contender"] for row in report.rows] == [
        "jaxgpt float32",
        "PyTorch eager float32",
        "jaxgpt bfloat16",
        "PyTorch autocast bfloat16",
    ]
    jaxgpt, eager, narrow, _ = report.rows
    assert len(jaxgpt["turns_ms"]) == 2
    assert jaxgpt["least_ms"] == min(jaxgpt["turns_ms"]) <= jaxgpt["median_ms"]
    assert eager["ratio"] == 1
    assert "moved_mb" not in eager
    assert jaxgpt["ratio"] == pytest.approx(jaxgpt["median_ms"] / eager["median_ms"])
    assert jaxgpt["tokens_per_second"] == pytest.approx(2 * 16 * 1e3 / jaxgpt["median_ms"])
    assert jaxgpt["loss"] == pytest.approx(eager["loss"], rel=1e-4)
    assert narrow["loss"] != jaxgpt["loss"]
    assert jaxgpt["mfu"] is None
    assert jaxgpt["product_share"] > 0
    text = table(report)
    assert "losses agree with PyTorch eager float32 at every step" in text
    assert "unknown" in text
    assert f"torch {version('torch')}" in text


@pytest.mark.slow
def test_jaxgpt_takes_the_step_of_pretrain(monkeypatch):
    made = []
    step = jax_trainer.make_step
    monkeypatch.setattr(
        jax_trainer, "make_step", lambda *given: made.append(step(*given)) or made[-1]
    )
    trainer = contenders.build("jaxgpt", CONFIG, training.start(CONFIG), "cpu")
    assert trainer._step is made[0]
    first, second = trainer.run(make_batches(CONFIG, 2))
    assert first == pytest.approx(math.log(31), abs=0.1)
    assert second != first


@pytest.mark.slow
def test_a_wrong_loss_ends_it(monkeypatch):
    right = torch_trainer.TorchTrainer.run
    monkeypatch.setattr(
        torch_trainer.TorchTrainer,
        "run",
        lambda self, batches: [1.001 * loss for loss in right(self, batches)],
    )
    with pytest.raises(JaxgptError, match=r"jaxgpt float32 has loss 3\.\d+ at step 1, but PyTorch"):
        training.measure_training(CONFIG, ["jaxgpt", "torch"], turns=1)


@pytest.mark.parametrize("wrong", [3.0004, float("nan")])
def test_losses_are_held_against_pytorchs_in_float32(wrong):
    training.compare_losses({"jaxgpt": [3.0, 3.0002], "torch": [3.0, 3.0]})
    training.compare_losses({"jaxgpt-bf16": [3.05], "torch": [3.0]})
    training.compare_losses({"jaxgpt": [3.002], "torch": [3.0]}, "gpu")
    with pytest.raises(JaxgptError, match=r"at step 2.* they do not do the same work"):
        training.compare_losses({"jaxgpt": [3.0, wrong], "torch": [3.0, 3.0]})
    with pytest.raises(JaxgptError, match=r"more than 0\.02 of it apart"):
        training.compare_losses({"jaxgpt": [3.0], "torch-bf16": [3.07]})


def test_fast_parts_do_not_change_pytorchs_model(random_params):
    config = ModelConfig(31, 16, 2, 2, 16, positions="sinusoidal", qkv_bias=False, tie_head=False)
    for model in (CONFIG.model, config):
        params = random_params(model)
        tokens = torch.from_numpy(make_batches(CONFIG, 1)[0].inputs).long()
        plain = torch_reference.from_params(model, params)(tokens)
        fast = torch_trainer.fast_model(model, params)
        torch.testing.assert_close(fast(tokens), plain, rtol=1e-5, atol=1e-5)
    optimizer = torch_trainer.fused_adamw(fast, CONFIG.optimizer)
    assert [group["fused"] for group in optimizer.param_groups] == [True, True]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


@pytest.mark.slow
def test_without_a_compiler_the_rest_goes_on(monkeypatch):
    def compile(function):
        def fail(*_):
            raise RuntimeError("no C++ compiler\nat all")

        return fail

    monkeypatch.setattr(torch, "compile", compile)
    report = training.measure_training(CONFIG, ["jaxgpt", "torch-compile"], turns=1)
    assert report.left_out == {
        "PyTorch compiled float32": "torch.compile fails here: no C++ compiler"
    }
    assert "left out: PyTorch compiled float32: torch.compile fails here" in table(report)


@pytest.mark.slow
def test_without_pytorch_jaxgpt_runs_alone(no_torch):
    report = training.measure_training(CONFIG, ["jaxgpt", "torch"], turns=1)
    (row,) = report.rows
    assert "ratio" not in row
    assert report.left_out["PyTorch eager float32"].startswith("PyTorch ")
    assert "its losses were held against nobody's" in table(report)
    with pytest.raises(ConfigError, match="no contender is left: PyTorch eager float32: PyTorch"):
        training.measure_training(CONFIG, ["torch"], turns=1)


def test_pytorch_without_the_platform_is_left_out():
    with pytest.raises(Unavailable, match="this PyTorch cannot compute on a tpu"):
        torch_trainer.find_device("tpu")


def test_contenders_are_chosen_by_name_and_dtype():
    assert choose() == list(CONTENDERS)
    assert choose(("torch", "jaxgpt")) == ["jaxgpt", "torch"]
    assert choose((), "bfloat16") == ["jaxgpt-bf16", "torch-bf16", "torch-compile-bf16"]
    with pytest.raises(ConfigError, match="no contender is called keras; there are jaxgpt, torch,"):
        choose(("keras",))
    with pytest.raises(ConfigError, match="no contender of torch computes in bfloat16"):
        choose(("torch",), "bfloat16")


# --- turns, and the machine ---


def test_turns_alternate():
    order = []
    works = {name: lambda name=name: order.append(name) or len(order) for name in "ab"}
    taken = take_turns(works, 3)
    assert "".join(order) == "ababab"
    assert taken.results == {"a": [1, 3, 5], "b": [2, 4, 6]}
    assert taken.median("a") in taken.seconds["a"]


@pytest.mark.parametrize(
    ("own", "share", "said"),
    [
        (9.7, 0.015, "other programs used 1.5% of the CPU"),
        (9.0, 0.05, "not quotable: other programs used 5% of the CPU"),
        (10.2, 0.0, "other programs used 0.0% of the CPU"),
    ],
)
def test_others_are_seen(own, share, said, tmp_path, monkeypatch):
    # Of 20 s of two cores 10 s were busy: 6 user, 1 nice, 1 system, 0.5 + 0.5 interrupts, 1 stolen.
    # Guests' time is part of the users'.
    stat, seconds = tmp_path / "stat", iter([5.0, 5.0 + own])
    monkeypatch.setattr(turns, "STAT", stat)
    monkeypatch.setattr(turns.os, "times", lambda: (next(seconds), 0.0, 0.0, 0.0, 0.0))
    stat.write_text("cpu  100 0 100 1000 50 0 0 0 0 0\ncpu0 1 1 1 1\n")
    before = turns.cpu_times()
    stat.write_text("cpu  700 100 200 1900 150 50 50 100 300 0\ncpu0 1 1 1 1\n")
    measured = share_of_others(before, turns.cpu_times())
    assert measured == pytest.approx(share)
    assert verdict(measured, 10.0) == said


def test_where_nothing_tells_what_others_did(tmp_path, monkeypatch):
    monkeypatch.setattr(turns, "STAT", tmp_path / "none")
    assert turns.cpu_times() is None
    assert share_of_others(None, None) is None
    assert verdict(None, 10.0).startswith("not quotable: this system has no /proc")


def test_operations_are_counted_as_nanogpt_does():
    model = SHAPES["gpt2"].model
    # GPT-2 has 124,439,808 parameters, 1,024 positions among them.
    products = 6 * (124_439_808 - 1024 * 768)
    assert flops_per_token(model) == products + 12 * 12 * 768 * 256
    assert flops_per_token(SHAPES["gpt2-1024"].model) == products + 12 * 12 * 768 * 1024


def test_a_peak_is_stated_or_unknown():
    assert rates.peak("NVIDIA H200", "bfloat16") == 989.4e12
    assert rates.peak("NVIDIA H2000", "bfloat16") is None
    assert rates.peak("TPU v4", "float32") is None


@pytest.mark.slow
def test_a_rate_is_held_against_the_peak(monkeypatch):
    monkeypatch.setitem(rates.PEAKS, "cpu", {"float32": 1e12})
    report = training.measure_training(CONFIG, ["jaxgpt"], turns=1)
    (row,) = report.rows
    flops = flops_per_token(CONFIG.model)
    assert row["mfu"] == pytest.approx(row["tokens_per_second"] * flops / 1e12)
    # AdamW alone reads a parameter, its gradient and two means, and writes three of them.
    assert row["moved_mb"] * 1e6 > 7 * 4 * count_parameters(CONFIG.model)


def test_measured_rates_are_numbers():
    measured = rates.measure_rates(32, 1)
    measured.products["PyTorch"] = measure_torch_products(measured.size, "cpu")
    for products in measured.products.values():
        assert set(products) == {"float32", "bfloat16"}
        assert min(*products.values(), measured.copy) > 0
    assert measured.fastest("float32") == max(
        measured.products[library]["float32"] for library in ("JAX", "PyTorch")
    )


@pytest.mark.slow
def test_bars_say_when_they_may_not_be_quoted():
    report = training.measure_training(CONFIG, ["jaxgpt"], turns=1)
    for others, seconds, said in (
        (0.01, 10.0, ""),
        (0.5, 10.0, " (not quotable: other programs used 50% of the CPU)"),
        (0.0, 0.3, " (not quotable: 0.30 s are too few to see other programs; take more steps)"),
    ):
        changed = replace(report, others=others, seconds=seconds)
        values, what = bars(changed)
        assert values == {"jaxgpt float32": report.rows[0]["median_ms"]}
        assert what == "train: ms, median" + said
        assert to_json(changed)["quotable"] is (said == "")


# --- decoding ---


@pytest.fixture(scope="module")
def decoded():
    config = get_shape("tiny", num_layers=2, num_heads=2, embed_dim=32)
    return decoding.measure_decoding(
        config, batch_sizes=(1, 2), prompt_tokens=5, new_tokens=12, turns=2
    )


@pytest.mark.slow
def test_both_write_the_same_tokens(decoded):
    rows = [(row["contender"], row["batch"], row["same_tokens"]) for row in decoded.rows]
    assert rows == [
        ("jaxgpt", 1, "12 of 12"),
        ("transformers", 1, "12 of 12"),
        ("jaxgpt", 2, "24 of 24"),
        ("transformers", 2, "24 of 24"),
    ]
    row = decoded.rows[2]
    assert row["tokens_per_second"] == pytest.approx(2 * 12 * 1e3 / row["median_ms"])
    assert set(bars(decoded)[0]) == {
        f"{name}, batch {batch}" for name in ("jaxgpt", "transformers") for batch in (1, 2)
    }


@pytest.mark.slow
def test_another_token_ends_it(monkeypatch):
    right = decoding.write

    def wrong(*arguments):
        tokens = right(*arguments)
        tokens[0, 3:4] = (tokens[0, 3:4] + 1) % 31
        return tokens

    monkeypatch.setattr(decoding, "write", wrong)
    with pytest.raises(JaxgptError, match=r"after 8 tokens .* which is no tie"):
        decoding.measure_decoding(CONFIG, batch_sizes=(1,), prompt_tokens=5, new_tokens=6, turns=1)


def test_a_tie_is_no_difference():
    from jaxgpt.benchmark.transformers_writer import TransformersWriter

    class Model:
        dtype = torch.float32

        def __call__(self, tokens):
            assert tokens.tolist() == [[7, 8, 1]]
            return SimpleNamespace(logits=torch.tensor([[[0.0, 2.0, 2.001, 1.9]]]))

    writer = object.__new__(TransformersWriter)
    writer._model, writer._device = Model(), "cpu"
    prompts, theirs = np.array([[7, 8]]), np.array([[1, 2, 0]])
    assert writer.compare(prompts, np.array([[1, 1, 3]]), theirs) == "1 of 3"
    with pytest.raises(JaxgptError, match=r"writes token 3 .* transformers writes 2, .* 5\.0e-02"):
        writer.compare(prompts, np.array([[1, 3, 0]]), theirs)


def test_the_text_is_no_single_token():
    params = decoding.prepare_params(decoding.varied_start(CONFIG))
    text = decoding.write(CONFIG.model, params, 11, np.array([[1, 2, 3, 4, 5]]))
    assert len(set(text.ravel())) > 3


def test_a_context_too_short_is_refused():
    with pytest.raises(ConfigError, match=r"context_length is 16, but 64 .* 128 new ones need 192"):
        decoding.measure_decoding(CONFIG)


def test_without_transformers_jaxgpt_writes_alone(monkeypatch):
    monkeypatch.delitem(sys.modules, "jaxgpt.benchmark.transformers_writer", raising=False)
    for name in ("transformers", "transformers.models.gpt2.modeling_gpt2"):
        monkeypatch.setitem(sys.modules, name, None)
    report = decoding.measure_decoding(
        CONFIG, batch_sizes=(1,), prompt_tokens=5, new_tokens=6, turns=1
    )
    assert [row["contender"] for row in report.rows] == ["jaxgpt"]
    assert "transformers" in report.left_out


# --- processes of their own ---


@pytest.fixture
def quick_children(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")


@pytest.mark.whole_run
def test_processes_say_how_long_they_took_to_begin(quick_children):
    report = children.measure_processes("load", CONFIG, ["jaxgpt", "torch"], 1)
    assert [row["contender"] for row in report.rows] == [
        "jaxgpt float32",
        "jaxgpt float32, from the cache",
        "PyTorch eager float32",
    ]
    for row in report.rows:
        assert 0 < row["import_seconds"] < row["first_step_seconds"]
        assert row["turns"][0]["peak_bytes"] > 50e6
    assert "s to first step" in table(report)


def test_memory_is_the_median_of_the_processes(monkeypatch):
    answers = {
        "jaxgpt": {"losses": [3.0], "peak_bytes": 4e6, "device_peak_bytes": 2e6},
        "torch": {"losses": [3.0], "peak_bytes": 5e6, "device_peak_bytes": None},
        "torch-compile": {"unavailable": "no compiler"},
    }
    peaks = iter([4e6, 9e6, 6e6])

    def answer(folder, name, *, fresh):
        assert fresh
        assert (folder / "start.npz").exists()
        return answers[name] | ({"peak_bytes": next(peaks)} if name == "jaxgpt" else {})

    monkeypatch.setattr(children, "_run", answer)
    report = children.measure_processes("memory", CONFIG, list(answers), 3)
    shown = [{key: row[key] for key in row if key.endswith("mb")} for row in report.rows]
    assert shown == [{"peak_mb": 6.0, "device_peak_mb": 2.0}, {"peak_mb": 5.0}]
    assert report.left_out == {"PyTorch compiled float32": "no compiler"}
    answers["torch"]["losses"] = [3.1]
    peaks = iter([4e6])
    with pytest.raises(JaxgptError, match="they do not do the same work"):
        children.measure_processes("memory", CONFIG, ["jaxgpt", "torch"], 1)


def test_processes_do_without_pytorch(no_torch, monkeypatch):
    answer = {"losses": [3.0], "peak_bytes": 4e6, "device_peak_bytes": None}
    monkeypatch.setattr(children, "_run", lambda *_, **__: answer)
    report = children.measure_processes("memory", CONFIG, ["jaxgpt", "torch"], 1)
    assert len(report.rows) == 1
    assert report.left_out["PyTorch eager float32"].startswith("PyTorch ")
    with pytest.raises(ConfigError, match="no contender is left"):
        children.measure_processes("memory", CONFIG, ["torch"], 1)


def test_a_process_that_fails_is_one_line(monkeypatch):
    monkeypatch.setattr(children.child, "__name__", "jaxgpt.no_such_module")
    with pytest.raises(
        JaxgptError, match=r"the process of jaxgpt float32 failed: .*no_such_module"
    ):
        children.measure_processes("memory", CONFIG, ["jaxgpt"], 1)


@pytest.mark.whole_run
def test_pytorchs_process_does_without_jax():
    code = (
        "import sys, jaxgpt.benchmark.child, jaxgpt.benchmark.torch_trainer;"
        "assert 'torch' in sys.modules and 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_start_is_read_as_it_was_written(random_params, tmp_path):
    params = random_params(CONFIG.model)
    save_start(tmp_path / "start.npz", params)
    read = load_start(tmp_path / "start.npz")
    np.testing.assert_array_equal(read["embed"]["tokens"], params["embed"]["tokens"])
    np.testing.assert_array_equal(
        read["blocks"]["attn"]["qkv"]["bias"], params["blocks"]["attn"]["qkv"]["bias"]
    )


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    decoding.measure_decoding(CONFIG, batch_sizes=(1,), prompt_tokens=5, new_tokens=3, turns=1)
    assert not list(tmp_path.glob("jaxgpt-benchmark-*"))
