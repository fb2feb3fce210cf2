"""scripts/generate.py, from its command line to what is printed and the exit code."""

import importlib
import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import pytest

from jaxgpt.config import DataConfig, ModelConfig, TrainConfig
from jaxgpt.generation.prepared_params import prepare_params
from jaxgpt.generation.sampling import SamplingConfig
from jaxgpt.generation.text import generate_text
from jaxgpt.tokenization.tokenizer import ByteTokenizer
from jaxgpt.training import checkpoint
from jaxgpt.training.step import TrainState

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, random_params):
    folder = tmp_path_factory.mktemp("run")
    model = ModelConfig(vocab_size=300, context_length=16, num_layers=1, num_heads=2, embed_dim=8)
    config = TrainConfig(model=model, data=DataConfig(tokenizer="bytes"))
    state = TrainState(jnp.asarray(7), random_params(model), {})
    checkpoint.save(folder, state, config, ByteTokenizer(), "data")
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """`run(*arguments, stdin=b"")`: exit code, standard output, standard error."""
    cli, script = (
        importlib.import_module("jaxgpt.commands.cli"),
        importlib.import_module("jaxgpt.commands.generate"),
    )

    def run(*arguments, stdin=b"", checkpoint=folder):
        argv = ["generate.py", "--checkpoint", str(checkpoint), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", argv)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = 0
        try:
            cli.run(script.main, sys.argv[1:])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


def written(folder, prompt, **options):
    return "".join(generate_text(checkpoint.load_model(folder), prompt, **options))


def test_writes_the_prompt_and_what_follows(run, folder):
    text = written(folder, "hi", max_new_tokens=20, sampling=SamplingConfig(temperature=0.0))
    arguments = ("--prompt", "hi", "--max-new-tokens", 20, "--temperature", 0)
    assert run(*arguments) == (0, f"hi{text}\n", "")
    assert run(*arguments, "--stop", text[4:6])[1] == f"hi{text[: text.find(text[4:6])]}\n"


@pytest.mark.slow
def test_weights_are_kept_in_the_dtype_that_is_asked_for(run, folder):
    model = checkpoint.load_model(folder)
    model = replace(model, params=prepare_params(model.params, "int8").as_params())
    sampling = SamplingConfig(temperature=0.0)
    text = "".join(generate_text(model, "hi", max_new_tokens=20, sampling=sampling))
    arguments = ("--prompt", "hi", "--max-new-tokens", 20, "--temperature", 0)
    assert run(*arguments, "--weight-dtype", "int8") == (0, f"hi{text}\n", "")
    code, _, error = run(*arguments, "--weight-dtype", "int4")
    assert (code, error.count("\n")) == (2, 1)
    assert "Expected one of ('stored', 'bfloat16', 'int8')" in error
    code, _, error = run(*arguments, "--weight-dtype", "int8", "--mesh", "tensor=2")
    assert (code, error.count("\n")) == (2, 1)
    assert "leave out --mesh or --weight-dtype" in error


@pytest.mark.slow
def test_sampling_flags_and_seed_reach_the_draw(run, folder):
    sampling = SamplingConfig(
        temperature=0.7, top_k=99, top_p=0.9, min_p=0.01, repetition_penalty=1.2
    )
    flags = "--temperature 0.7 --top-k 99 --top-p 0.9 --min-p 0.01 --repetition-penalty 1.2"
    text = written(folder, "hi", max_new_tokens=9, sampling=sampling, seed=5)
    code, out, _ = run("--prompt", "hi", "--max-new-tokens", 9, "--seed", 5, *flags.split())
    assert (code, out) == (0, f"hi{text}\n")


@pytest.mark.slow
def test_several_samples_come_under_headers_and_the_first_is_the_single_one(run):
    single = run("--prompt", "hi", "--max-new-tokens", 6)[1]
    code, out, _ = run("--prompt", "hi", "--max-new-tokens", 6, "--num-samples", 2)
    assert code == 0
    first, second = out.removeprefix("--- sample 1 of 2 ---\n").split("--- sample 2 of 2 ---\n")
    assert first == single != second


def test_pieces_are_printed_as_they_come(run, capsys):
    shown = []

    def pieces():
        for piece in ("a", "b", "c"):
            shown.append(capsys.readouterr().out)
            yield [piece]

    importlib.import_module("jaxgpt.commands.generate").show(">", pieces(), escaped=False)
    assert (*shown, capsys.readouterr().out) == ("", ">a", "b", "c\n")


def test_an_output_without_unicode_gets_question_marks(run, monkeypatch):
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii"))
    importlib.import_module("jaxgpt.commands.generate").show(
        "é", iter([["a🙂"], ["b"]]), escaped=False
    )
    assert output.getvalue() == b"?a?b\n"


def test_control_characters_do_not_reach_a_terminal(run, monkeypatch):
    module = importlib.import_module("jaxgpt.generation.text")
    monkeypatch.setattr(module, "stream_texts", lambda *_, **__: iter([["\x1b[2J!"]]))
    assert run("--prompt", "a")[1] == "a\x1b[2J!\n"
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    run("--prompt", "a")
    assert terminal.getvalue() == "a\\x1b[2J!\n"


@pytest.mark.slow
def test_prompt_from_standard_input(run, folder):
    text = written(folder, "né\n", max_new_tokens=4, sampling=SamplingConfig(temperature=0.8))
    arguments = ("--prompt", "-", "--max-new-tokens", 4)
    assert run(*arguments, stdin="né\n".encode()) == (0, f"né\n{text}\n", "")
    code, out, err = run(*arguments, stdin=b"n\xff")
    assert (code, out) == (3, "")
    assert err.startswith("error: the prompt is not UTF-8: byte 0xff at offset 1")
    code, out, _ = run(*arguments, "--errors", "replace", stdin=b"n\xff")
    assert code == 0
    assert out.startswith("n\ufffd")


def test_prompt_longer_than_the_context(run):
    code, out, err = run("--prompt", "x" * 17)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "17 tokens" in err
    assert run("--prompt", "x" * 17, "--truncate", "left", "--max-new-tokens", 2)[0] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--max-new-tokens 0", "max_new_tokens is 0"),
        ("--max-new-tokens 1000001", "max_new_tokens is 1000001"),
        ("--num-samples 0", "num_samples is 0"),
        ("--num-samples 257", "num_samples is 257"),
        ("--seed -1", "seed is -1"),
        ("--temperature -1", "temperature is -1"),
        ("--temperature nan", "temperature is nan"),
        ("--top-k -1", "top_k is -1"),
        ("--top-p 0", "top_p is 0"),
        ("--tempreature 1", "--tempreature"),
        ("--truncate right", "'right'"),
    ],
)
def test_bad_arguments_are_one_line_before_the_model_is_loaded(run, flags, message):
    code, out, err = run("--prompt", "hi", *flags.split(), checkpoint="nowhere")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert message in err


def test_empty_stop_is_refused(run):
    assert run("--prompt", "hi", "--stop", "", checkpoint="nowhere")[0] == 2


def test_missing_checkpoint(run):
    code, out, err = run("--prompt", "hi", checkpoint="nowhere")
    assert (code, out, err.count("\n")) == (4, "", 1)


def test_no_arguments_show_the_usage_and_help_waits_for_no_jax():
    code = (
        "import runpy, sys\n"
        "codes = []\n"
        "for argv in ([], ['--help']):\n"
        "    sys.argv = ['generate.py', *argv]\n"
        "    try:\n"
        "        runpy.run_path('generate.py', run_name='__main__')\n"
        "    except SystemExit as stop:\n"
        "        codes.append(stop.code)\n"
        "print(codes, 'jax' in sys.modules)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=SCRIPTS,
        env={"PYTHONPATH": f"{SCRIPTS}:{SCRIPTS.parent}", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stderr.startswith("usage: ")
    assert ran.stderr.count("\n") == 1
    assert "--repetition-penalty" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "[2, 0] False"
