"""Commands take each family: plans of published models, and runs from a start to an export."""

import importlib
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from test_families import LOGITS, PUBLISHED, far, our_logits, their_logits
from tiny_models import make_theirs
from transformers import AutoModelForCausalLM

from jaxgpt.config import TrainConfig
from jaxgpt.config_file import find_config, from_dict, run_name, to_dict
from jaxgpt.errors import ConfigError
from jaxgpt.families.known import FAMILIES, family_of
from jaxgpt.finetuning.lora_file import read_adapters_record
from jaxgpt.finetuning.pretrained import load_pretrained
from jaxgpt.presets import PRESETS


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    """`command(NAME, *words)` in a folder of its own: the lines that the command prints."""
    monkeypatch.chdir(tmp_path)

    def run(name, *words):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
        importlib.import_module(f"jaxgpt.commands.{name}").main(list(map(str, words)))
        return capsys.readouterr().out.splitlines()

    return run


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_plan_has_the_published_number_of_parameters(name, command):
    lines = command("plan", name, "--memory", "80GB")
    assert lines[1].split()[:2] == ["parameters", f"{PUBLISHED[name]:,}"]


@pytest.mark.slow
def test_a_plan_needs_no_more_of_a_folder_than_its_config(command, tmp_path):
    family, values = next(
        (family, family.sizes["qwen3-0.6b"]) for family in FAMILIES if "qwen3-0.6b" in family.sizes
    )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family.model_type} | values))
    lines = command("plan", "--init-from", tmp_path, "--memory", "80GB")
    assert lines[0].startswith("28 layers, 16 heads, width 1024, T=1024, V=151936")
    assert lines[1].split()[:2] == ["parameters", "596,049,920"]


@pytest.mark.parametrize("name", ["llama-tiny", "qwen3-tiny", "gemma3-tiny"])
def test_a_preset_is_of_the_family_that_it_is_called_by(name):
    model = from_dict(PRESETS[name].model, {"vocab_size": 256})
    assert family_of(model).model_type.startswith(name.removesuffix("-tiny"))


def test_names_with_dots_are_presets_and_files():
    assert find_config("llama-3.2-1b") is PRESETS["llama-3.2-1b"]
    assert run_name("llama-3.2-1b") == "llama-3.2-1b"
    assert run_name("settings/run.toml") == "run"
    with pytest.raises(ConfigError, match=r"called qwen3-0.7b \(did you mean qwen3-"):
        find_config("qwen3-0.7b")


def test_settings_of_rotary_positions_are_a_section_of_their_own(tmp_path):
    """In a file that is written, one of a user's, and one of before there were any."""
    config = PRESETS["llama-3.2-1b"]
    (tmp_path / "run.json").write_text(json.dumps(to_dict(config)))
    assert find_config(str(tmp_path / "run.json")) == config
    text = 'preset = "llama-tiny"\n[model.rope]\nrope_base = 500.0\nrope_factor = 2.0\n'
    (tmp_path / "run.toml").write_text(text + 'rope_scaling = "linear"\n')
    rope = find_config(str(tmp_path / "run.toml")).model.rope
    assert (rope.rope_base, rope.rope_factor, rope.rope_scaling) == (500.0, 2.0, "linear")
    (tmp_path / "bad.toml").write_text("[model.rope]\nrope_bass = 2.0\n")
    with pytest.raises(ConfigError, match=r"rope_bass is not a setting \(did you mean rope_base"):
        find_config(str(tmp_path / "bad.toml"))
    old = to_dict(PRESETS["small"])
    model = {name: old["model"][name] for name in BEFORE}
    assert from_dict(TrainConfig(), old | {"model": model}) == PRESETS["small"]


BEFORE = (
    *("vocab_size", "context_length", "num_layers", "num_heads", "embed_dim", "dropout"),
    *("qkv_bias", "tie_head", "positions", "gelu", "norm_epsilon"),
)
"""Fields of a model in runs of before there were families."""


FAST = ("--batch-size", 8, "--platform", "cpu")
TRAINED = ("--warmup-steps", 1, "--stories-bytes", 20_000, "--steps", 4, "--out", "run", *FAST)
TUNED = ("--init-from", "run", "--steps", 3, "--learning-rate", 1e-2, *FAST)


@pytest.mark.whole_run
@pytest.mark.parametrize("name", ["llama-tiny", "qwen3-tiny", "gemma3-tiny"])
def test_a_preset_from_its_start_to_transformers(name, command):
    pretrain(command, name)
    to_transformers(command)


@pytest.mark.whole_run
@pytest.mark.parametrize("name", ["mistral", "qwen2", "olmo2", "olmo3"])
def test_a_folder_of_transformers_there_and_back(name, command):
    make_theirs(name, vocab_size=300, max_position_embeddings=131_072).save_pretrained("theirs")
    pretrain(command, "tiny", "--init-from", "theirs")
    theirs = ("--init-from", "theirs", "--tokenizer", "words")
    command("generate", *theirs, "--prompt", "Once", "--max-new-tokens", 4)
    to_transformers(command)


def pretrain(command, preset, *how):
    """A run in `run`, with a tokenizer that ends texts."""
    write("text.txt", "Once upon a time there was a king. " * 9)
    command("train_tokenizer", "--data", "text.txt", "--vocab-size", 270, "--out", "words")
    command("train", preset, *how, "--tokenizer", "words", "--context-length", 256, *TRAINED)


def to_transformers(command):
    """The rest of the way of the model in `run`, which adapters are trained beside."""
    command("generate", "--checkpoint", "run", "--prompt", "Once", "--max-new-tokens", 4)
    assert command("evaluate", "--checkpoint", "run", "--data", "text.txt")[0].startswith("loss ")
    write_records("asked.jsonl", {"instruction": "Say {}.", "output": "{} it is."})
    told = ("--data", "asked.jsonl", "--out", "told", "--trained", "lora")
    command("finetune_instructions", *TUNED, *told)
    assert "gate" in read_adapters_record(Path("told/adapters"))["targets"]
    ours = load_pretrained("told")
    command("convert", "--from", "jaxgpt", "--model", "told", "--out", "exported")
    theirs = AutoModelForCausalLM.from_pretrained("exported", attn_implementation="eager")
    tokens = np.arange(2 * 40).reshape(2, 40) % 90
    assert far(our_logits(ours.config, ours.params, tokens), their_logits(theirs, tokens)) <= LOGITS
    command("convert", "--from", "huggingface", "--model", "exported", "--out", "back")
    back = load_pretrained("back")
    assert back.config == ours.config
    assert jax.tree.all(jax.tree.map(np.array_equal, back.params, ours.params))
    with pytest.raises(SystemExit) as stop:
        command("compare", "told", "exported", "--text", "Once upon a time")
    assert stop.value.code == 0


@pytest.mark.whole_run
@pytest.mark.parametrize("trained", ["lora", "1"])
def test_a_classifier_and_preferences_of_a_family(trained, command):
    """Of the one that differs most: heads, references and frozen blocks of any model."""
    pretrain(command, "gemma3-tiny")
    how = (*TUNED, "--trained", trained)
    rows = [f"{kind},{word} {i}" for i in range(16) for kind, word in (("a", "he"), ("b", "sea"))]
    write("texts.csv", "\n".join(["Label,Text", *rows, ""]))
    lines = command("finetune_classifier", *how, "--data", "texts.csv", "--out", "classes")
    assert any(line.startswith("test: 6 texts") for line in lines)
    command("classify", "--checkpoint", "classes", "--text", "sea 4")
    record = {"instruction": "Say {}.", "chosen": "{} it is.", "rejected": "No, not {}."}
    write_records("pairs.jsonl", record)
    lines = command("finetune_preferences", *how, "--data", "pairs.jsonl", "--out", "preferred")
    assert any(line.startswith("validation loss") for line in lines)


def write(name, text):
    Path(name).write_text(text)


def write_records(name, record):
    rows = [{key: text.format(i) for key, text in record.items()} for i in range(20)]
    write(name, "".join(json.dumps(row) + "\n" for row in rows))
