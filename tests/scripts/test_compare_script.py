"""The command line, from the models' names to the cause, the files and the exit code."""

import dataclasses
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxgpt.config import ModelConfig, TrainConfig
from jaxgpt.huggingface.weights import save_gpt2
from jaxgpt.tokenization.tokenizer import load_tokenizer
from jaxgpt.training.checkpoint import LoadedModel, save_model

SCRIPTS = Path(__file__).parents[2] / "scripts"
CONFIG = ModelConfig(vocab_size=256, context_length=24, num_layers=2, num_heads=4, embed_dim=32)
MODELS = """
import dataclasses, torch
from jaxgpt.parity.torch_reference import from_params
from jaxgpt.training.checkpoint import load_model

torch.set_num_threads(1)

def make_model(**settings):
    model = load_model("own")
    return from_params(dataclasses.replace(model.config, **settings), model.params)

def erf():
    return make_model(gelu="erf")

def heads():
    return make_model(num_heads=2)

def dropout():
    return make_model(dropout=0.1)

def no_bias():
    model = make_model()
    for block in model.blocks:
        block.mlp.down.bias = None
    return model

def last():
    class Last(torch.nn.Module):
        def forward(self, tokens):
            return torch.zeros(len(tokens), 3, 256)
    return Last()

def broken():
    raise KeyError("of mine")

def leaves():
    raise SystemExit(0)

def leaves_at_once():
    import os
    os._exit(0)

def leaves_late():
    class Leaves(torch.nn.Module):
        def forward(self, tokens):
            raise SystemExit
    return Leaves()

def leaves_when_looked_at():
    class Leaves(torch.nn.Module):
        def named_modules(self, *args, **kwargs):
            raise GeneratorExit
    return Leaves()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, random_params):
    folder = tmp_path_factory.mktemp("compare")
    params, tokenizer = random_params(CONFIG), load_tokenizer("bytes")
    save_model(folder / "own", LoadedModel(CONFIG, params, tokenizer, 0, TrainConfig(model=CONFIG)))
    save_gpt2(folder / "hf", CONFIG, params, tokenizer=tokenizer)
    save_gpt2(folder / "bare", CONFIG, params)
    (folder / "models.py").write_text(MODELS)
    return folder


# One process for all calls: to start JAX and PyTorch takes longer than to compare.
RUN = """
import contextlib, io, json, runpy, sys, warnings
sys.path.insert(0, sys.argv[1])
warnings.simplefilter("ignore")
for line in sys.stdin:
    out, err, code = io.StringIO(), io.StringIO(), 0
    sys.argv = ["compare.py", *json.loads(line)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(sys.path[0] + "/compare.py", run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


@pytest.fixture(scope="module")
def run(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(SCRIPTS)],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def call(*arguments):
        process.stdin.write(json.dumps(arguments) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield call
    process.stdin.close()
    process.stdout.close()
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("b", ["own", "hf", "models.py", "models.py:make_model"])
def test_equal_models_leave_with_0(b, run):
    code, out, err = run("own", b, "--text", "Once")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith("equal: the largest relative difference is")
    assert "blocks.1.mlp.gelu" in out
    assert "blocks.attn.qkv.weight" in out
    assert "4 tokens" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "first", "cause"),
    [
        ("erf", "blocks.0.mlp.gelu", "cause: B computes GELU by erf, not by tanh"),
        ("heads", "blocks.0.attn.context", "cause: B has 2 heads, not 4"),
        ("no_bias", "blocks.0.mlp.down", "cause: B has no blocks.mlp.down.bias"),
        ("dropout", "embed", "cause: B computes something else each time: dropout is left on"),
    ],
)
def test_a_cause_leaves_with_1(function, first, cause, run):
    code, out, err = run("hf", f"models.py:{function}", "--tokens", "79 110 99 101")
    assert (code, err) == (1, "")
    *_, verdict, named, outcome = out.splitlines()
    assert verdict.startswith(f"different: {first} is the first")
    assert named.startswith(cause)
    assert outcome.startswith("with this, every")


@pytest.mark.slow
def test_a_recording_is_saved_compared_and_drawn(run, folder):
    arguments = ("own", "hf", "--text", "Once", "--save", "a.npz", "--plot", "equal.png")
    assert run(*arguments)[0] == 0
    with np.load(folder / "a.npz", allow_pickle=False) as file:
        assert {"tokens", "loss", "config", "activations/blocks.0.attn.out"} <= set(file.files)
        assert {"gradients/blocks.mlp.up.weight", "parameters/embed.tokens"} <= set(file.files)
    code, out, _ = run("models.py:erf", "a.npz", "--plot", "other.png")
    assert code == 1
    assert "cause: B computes GELU by tanh, not by erf" in out or "A computes GELU by erf" in out
    for name in ("equal.png", "other.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_folder_without_a_tokenizer_takes_the_others_or_one_named(run):
    assert run("bare", "own", "--text", "Once")[0] == 0
    assert run("bare", "bare", "--text", "Once", "--tokenizer", "bytes")[0] == 0


@pytest.fixture(scope="module")
def odd_files(folder, random_params):
    logits = {"activations/logits": np.zeros((1, 3, 256), np.float32)}
    np.savez(folder / "three.npz", tokens=np.array([[1, 2, 3]]), **logits)
    np.savez(folder / "four.npz", tokens=np.array([[1, 2, 4]]), **logits)
    np.savez(folder / "lacking.npz", tokens=np.array([[1, 2, 3]]))
    np.savez(folder / "pickled.npz", tokens=np.array([{}], object), **logits)
    nan = {"activations/logits": np.full((1, 3, 256), np.nan, np.float32)}
    np.savez(folder / "nan.npz", tokens=np.array([[1, 2, 3]]), **nan)
    with zipfile.ZipFile(folder / "notes.npz", "w") as file:
        file.writestr("notes.txt", "by hand")
    for name in ("empty.py", "pytorch_model.bin", "model.pt"):
        (folder / name).write_text("")
    wide = dataclasses.replace(CONFIG, vocab_size=300)
    save_gpt2(folder / "wide", wide, random_params(wide))


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("own",), 2, "name two models"),
        (("own", "hf"), 2, "give --text or --tokens"),
        (("own", "hf", "--text", "a", "--tokens", "1 2"), 2, "drop one"),
        (("own", "hf", "--tokens", "1 two"), 2, "--tokens has two"),
        (("own", "hf", "--tokens", f"1 {5000 * '9'}"), 2, "--tokens has 99999999999999999999; "),
        (("own", "hf", "--tokens", "1 99999999999"), 2, "--tokens has 99999999999; write"),
        (("own", "hf", "--text", "a"), 2, "own takes 2 to 24 tokens, not 1"),
        (("own", "hf", "--text", 25 * "a"), 2, "own takes 2 to 24 tokens, not 25"),
        (("own", "hf", "--text", "ab", "--plot", "a.svg"), 2, "must end in .png"),
        (("own", "hf", "--text", "ab", "--save", "none/a.npz"), 2, "does not exist"),
        (("own", "hf", "--tokens", "1 256"), 3, "token id 256 is outside [0, 256)"),
        (("own", "models.py", "--tokens", "1 999"), 3, "token id 999"),
        (("own", "three.npz", "--text", "ab"), 3, "3 other tokens"),
        (("three.npz", "four.npz"), 3, "ran on other tokens"),
        (("own", "none"), 4, "none: no such folder"),
        (("hf/model.safetensors", "own"), 4, "model.safetensors is a file; name the folder"),
        (("pytorch_model.bin", "own"), 4, "pytorch_model.bin: pickle refused"),
        (("model.pt", "own"), 4, "model.pt: pickle refused"),
        (("nan.npz", "nan.npz"), 4, "activation logits has numbers that are not finite"),
        (("own", "notes.npz"), 4, "notes.txt in it is no .npy"),
        (("own", "none.npz"), 4, "none.npz is no recording"),
        (("own", "lacking.npz"), 4, "lacks activations/logits"),
        (("own", "pickled.npz"), 4, "pickled objects are refused"),
        (("own", "none.py"), 4, "none.py is not a file"),
        (("own", "empty.py"), 4, "has no function make_model"),
        (("own", "models.py:broken"), 4, "raises KeyError"),
        (("own", "models.py:leaves"), 4, "raises SystemExit: 0"),
        (("own", "models.py:leaves_at_once"), 4, "os._exit(0)"),
        (("own", "models.py:leaves_late", "--text", "Once"), 4, "raises SystemExit"),
        (("own", "models.py:leaves_when_looked_at", "--text", "Once"), 4, "raises GeneratorExit"),
        (("own", "models.py:last", "--text", "Once"), 4, "it must be logits of shape (1, 4, 256)"),
        (("own", "wide", "--text", "Once"), 4, "vocab_size"),
    ],
)
def test_bad_input_is_one_line(arguments, code, complaint, run, odd_files, folder):
    before = sorted(os.listdir(folder))
    got, out, err = run(*arguments)
    assert (got, out) == (code, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert complaint in err
    assert [name for name in sorted(os.listdir(folder)) if name != "__pycache__"] == before


def test_help_does_without_jax():
    code = (
        "import runpy, sys; sys.argv[1:] = ['--help']\n"
        f"sys.path.insert(0, {str(SCRIPTS)!r})\n"
        "try:\n"
        f"    runpy.run_path({str(SCRIPTS / 'compare.py')!r}, run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    sys.exit(stop.code or bool({'jax', 'torch'} & set(sys.modules)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0
    assert "--plot" in ran.stdout
