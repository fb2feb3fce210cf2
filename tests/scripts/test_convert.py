"""scripts/convert.py there and back, what it makes in the other scripts, and names of the hub."""

import importlib
import json
import os
import signal
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxgpt.config import DataConfig, ModelConfig, TrainConfig
from jaxgpt.errors import ConfigError
from jaxgpt.huggingface.hub import fetch_model
from jaxgpt.huggingface.weights import load_gpt2, save_gpt2
from jaxgpt.tokenization.huggingface_folder import TOKENIZER_FILES
from jaxgpt.tokenization.tokenizer import ByteTokenizer
from jaxgpt.training import checkpoint
from jaxgpt.training.step import TrainState

SCRIPTS = Path(__file__).parents[2] / "scripts"
MODEL = ModelConfig(vocab_size=300, context_length=16, num_layers=2, num_heads=2, embed_dim=8)
HUB_NAME = "someone/tiny-gpt2"


@pytest.fixture
def folder(tmp_path, random_params, monkeypatch):
    """A working folder with a Hugging Face folder `gpt` and a run `run`, of one model."""
    monkeypatch.chdir(tmp_path)
    params = random_params(MODEL)
    save_gpt2("gpt", MODEL, params, tokenizer=ByteTokenizer())
    config = TrainConfig(model=MODEL, data=DataConfig(tokenizer="bytes"))
    (tmp_path / "run").mkdir()
    state = TrainState(jnp.asarray(3), params, {})
    checkpoint.save(tmp_path / "run", state, config, ByteTokenizer(), "data")
    (tmp_path / "text.txt").write_text("Once upon a time there was a king. " * 20)
    return tmp_path


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """`run(command)`: exit code, standard output, standard error."""
    cli = importlib.import_module("jaxgpt.commands.cli")
    before = signal.getsignal(signal.SIGTERM)
    # A busy machine is no reason for a line that says how far a download is.
    monkeypatch.setattr("jaxgpt.commands.progress.Progress._QUIET", float("inf"))

    def run(command):
        script, *argv = command.split()
        monkeypatch.setattr(sys, "argv", [script, *argv])
        code = 0
        try:
            module = importlib.import_module(f"jaxgpt.commands.{script.removesuffix('.py')}")
            cli.run(module.main, argv)
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    yield run
    signal.signal(signal.SIGTERM, before)


def fails(run, command, code, message):
    before = sorted(Path.cwd().rglob("*"))
    found, out, err = run(command)
    assert (found, out, err.count("\n")) == (code, "", 1), err
    assert message in err
    assert sorted(Path.cwd().rglob("*")) == before


def assert_same_bits(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)


def test_there_and_back(run, folder):
    code, out, err = run("convert.py --from jaxgpt --model run --out hf")
    assert (code, err) == (0, "")
    assert "2 layers of 2 heads, width 8, context 16" in out
    assert f"saved      {folder}/hf\n" in out
    assert run("convert.py --from gpt2 --model hf --out back")[0] == 0
    assert run("convert.py --from jaxgpt --model back --out again")[0] == 0
    model = checkpoint.load_model("back")
    assert (model.config, model.tokenizer.name) == (MODEL, "bytes")
    assert_same_bits(model.params, checkpoint.load_model("run").params)
    assert_same_bits(load_file("hf/model.safetensors"), load_file("again/model.safetensors"))
    assert_same_bits(load_gpt2("again"), load_gpt2("gpt"))


@pytest.mark.whole_run
def test_the_other_scripts_take_what_it_makes_and_the_folder_itself(run, folder):
    assert run("convert.py --from gpt2 --model gpt --out ck")[0] == 0
    shown = []
    for source in ("--checkpoint ck", "--init-from gpt", "--init-from ck", "--checkpoint run"):
        code, text, err = run(f"generate.py {source} --prompt hi --max-new-tokens 30")
        assert (code, err) == (0, "")
        measured = run(f"evaluate.py {source} --data text.txt")
        assert (measured[0], measured[2]) == (0, "")
        shown.append((text, measured[1]))
    assert shown == [shown[0]] * 4


@pytest.mark.whole_run
def test_training_from_a_folder_by_its_command_line(run, folder):
    command = (
        "train.py tiny --init-from gpt --data text.txt --out tuned --steps 2 --warmup-steps 1 "
        "--batch-size 8 --context-length 8 --dropout 0.2 --validation-fraction 0.3 "
        "--sample-tokens 2"
    )
    assert run(command)[0] == 0
    model = checkpoint.load_model("tuned")
    assert (model.config.context_length, model.config.dropout) == (8, 0.2)
    assert (model.config.num_layers, model.config.embed_dim) == (2, 8)
    assert (model.train_config.init_from, model.tokenizer.name) == ("gpt", "bytes")
    os.remove("gpt/model.safetensors")
    code, _, err = run(command)
    assert code == 0
    assert "already finished" in err


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtype(run, dtype):
    assert run(f"convert.py --from gpt2 --model gpt --out ck --dtype {dtype}")[0] == 0
    _, params = load_gpt2("gpt", dtype)
    assert_same_bits(checkpoint.load_model("ck").params, params)
    assert run("generate.py --checkpoint ck --prompt hi --max-new-tokens 3")[0] == 0
    assert run("evaluate.py --checkpoint ck --data text.txt")[0] == 0
    assert run("convert.py --from jaxgpt --model ck --out hf")[0] == 0
    assert_same_bits(load_gpt2("hf")[1], params)


def test_what_cannot_be_converted(run, folder):
    (folder / "full").mkdir()
    (folder / "full/mine").touch()
    gpt2, own = "convert.py --from gpt2 --model", "convert.py --from jaxgpt --model"
    fails(run, f"{gpt2} gpt --out full", 2, "full: the folder is not empty")
    fails(run, f"{gpt2} gpt --out none/ck", 2, "does not exist; create it first")
    fails(run, f"{gpt2} gpt", 2, "Missing from jaxgpt convert: --out")
    fails(run, f"{gpt2} gpt --out ck --dtype int8", 2, "--dtype")
    fails(
        run, "convert.py --from bert --model gpt --out ck", 2, "('huggingface', 'gpt2', 'jaxgpt')"
    )
    fails(run, f"{gpt2} run --out ck", 4, "run is a checkpoint of jaxgpt; set --from jaxgpt")
    fails(run, f"{own} gpt --out ck", 4, "gpt holds no checkpoint")
    fails(run, f"{gpt2} none --out ck", 4, "none: no such folder")
    fails(run, f"{gpt2} {'a' * 300} --out ck", 4, "no such folder")
    fails(run, f"{gpt2} gpt --out ck --tokenizer none", 3, "no tokenizer 'none'")
    fails(run, f"{gpt2} gpt --out full --overwrite", 2, "it holds mine, and nothing proves that")
    for _ in range(2):
        assert run(f"{gpt2} gpt --out written --overwrite")[0] == 0


# The hub: a server that has what a folder has, and says so of nothing else.


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        if not self.path.startswith(f"/{HUB_NAME}/resolve/main/"):
            self.send_error(401)
            return
        self.path = self.path.rsplit("/", 1)[1]
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(folder, tmp_path_factory, monkeypatch):
    """The server; its folder `hub.folder` has `gpt`'s files."""
    there = tmp_path_factory.mktemp("hub")
    for name in ("config.json", "model.safetensors"):
        (there / name).write_bytes((folder / "gpt" / name).read_bytes())

    def handler(*arguments):
        return Handler(*arguments, directory=there)

    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.requests, server.folder = [], there
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("JAXGPT_CACHE", str(folder / "cache"))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def asked(hub):
    names = [path.rsplit("/", 1)[1] for path in hub.requests]
    hub.requests.clear()
    return names


BY_NAME = f"convert.py --from gpt2 --model {HUB_NAME} --tokenizer bytes --out"


def test_a_model_by_its_name_is_fetched_once(run, hub, folder):
    assert run(f"{BY_NAME} one")[0] == 0
    assert asked(hub) == ["config.json", *TOKENIZER_FILES, "model.safetensors"]
    assert_same_bits(checkpoint.load_model("one").params, load_gpt2("gpt")[1])
    assert run(f"{BY_NAME} two")[0] == 0
    assert asked(hub) == []
    cached = sorted(os.listdir(folder / "cache/models" / HUB_NAME))
    assert cached == [
        "config.json", "config.json.sha256", "model.safetensors", "model.safetensors.sha256",
    ]  # fmt: skip


def test_a_model_in_shards(run, hub):
    tensors = load_file(hub.folder / "model.safetensors")
    (hub.folder / "model.safetensors").unlink()
    parts = {"a.safetensors": {}, "b.safetensors": {}}
    for number, (name, tensor) in enumerate(tensors.items()):
        parts["ab"[number % 2] + ".safetensors"][name] = tensor
    for name, part in parts.items():
        save_file(part, hub.folder / name)
    weight_map = {name: part for part, names in parts.items() for name in names}
    index = hub.folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert run(f"{BY_NAME} one")[0] == 0
    assert asked(hub)[1 + len(TOKENIZER_FILES) :] == [
        "model.safetensors", "model.safetensors.index.json", "a.safetensors", "b.safetensors",
    ]  # fmt: skip
    assert_same_bits(checkpoint.load_model("one").params, load_gpt2("gpt")[1])
    assert run(f"{BY_NAME} two")[0] == 0
    assert asked(hub) == []


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda hub: (hub / "config.json").unlink(), 3, "File not found"),
        (lambda hub: (hub / "config.json").write_text('{"model_type": "bert"}'), 4, "'bert'; only"),
        (lambda hub: (hub / "model.safetensors").unlink(), 4, "reads no pickle, so name a model"),
        (lambda hub: (hub / "model.safetensors").write_bytes(b""), 4, "damaged"),
    ],
)
def test_a_model_that_is_not_what_it_should_be(run, hub, folder, change, code, message):
    change(hub.folder)
    found, out, err = run(f"{BY_NAME} one")
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert message in err
    assert not (folder / "one").exists()


def test_an_index_of_the_hub_leads_nowhere_else(run, hub, folder):
    (hub.folder / "model.safetensors").unlink()
    index = hub.folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "../../x.safetensors"}}')
    code, _, err = run(f"{BY_NAME} one")
    assert (code, err.count("\n")) == (4, 1)
    assert "lists '../../x.safetensors', which is no name of a file inside it" in err


def test_only_a_name_of_the_hub_is_asked_for(hub):
    for name in ("gpt2", "../gpt", "a/..", "a/b/c", "/a", "a/b?c", "-/"):
        with pytest.raises(ConfigError, match="is no OWNER/NAME of the hub"):
            fetch_model(name)
    assert asked(hub) == []


def test_a_hub_that_does_not_answer(run, hub, folder, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    code, _, err = run(f"{BY_NAME} one")
    assert (code, err.count("\n")) == (3, 1)
    cache = folder / "cache/models" / HUB_NAME
    assert f"bring the file to {cache}/config.json yourself, or name a folder that has" in err
    for bad in (
        "file:///etc",
        "ftp://host",
        "host",
        "http://",
        "http://[",
        "http://a:b",
        "http://a b",
    ):
        monkeypatch.setenv("HF_ENDPOINT", bad)
        code, _, err = run(f"{BY_NAME} one")
        assert (code, err.count("\n")) == (2, 1)
        assert f"HF_ENDPOINT is '{bad.rstrip('/')}'; it must be a server's" in err
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("JAXGPT_CACHE", "text.txt")
    code, _, err = run(f"{BY_NAME} one")
    assert (code, err.count("\n")) == (2, 1)
    assert "set JAXGPT_CACHE to another folder" in err
