"""What the command lines share: arguments, output files, the environment, compiled programs."""

import errno
import importlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import types
import warnings
from pathlib import Path

import pytest

from jaxgpt.config_file import find_config
from jaxgpt.errors import ConfigError

SCRIPTS = Path(__file__).parents[2] / "scripts"
VARIABLES = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")


@pytest.fixture
def environment(monkeypatch, tmp_path):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAXGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    return importlib.import_module("jaxgpt.commands.environment")


@pytest.mark.slow
def test_compiled_programs_are_kept_and_taken_up(environment, tmp_path):
    code = """
from jaxgpt.commands import environment
environment.keep_compiled()
import jax
jax.monitoring.register_event_listener(lambda name, **_: print(name))
jax.jit(lambda x: x @ x)(jax.numpy.ones((64, 64)))
"""
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert any((tmp_path / "cache/compiled").rglob("jit_*"))
    hits = [run.stdout.count("/jax/compilation_cache/cache_hits") for run in runs]
    assert hits[0] < hits[1]


@pytest.mark.parametrize("name", VARIABLES)
def test_a_choice_of_the_users_is_left_alone(name, environment, tmp_path, monkeypatch):
    monkeypatch.setenv(name, "false")
    environment.keep_compiled()
    assert not (tmp_path / "cache").exists()
    assert os.environ[name] == "false"


def test_a_folder_that_cannot_be_made_is_done_without(environment, tmp_path):
    (tmp_path / "cache").touch()
    environment.keep_compiled()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_a_folder_for_programs_is_the_users_alone(environment, tmp_path, capsys):
    made = environment.keep_compiled()
    assert os.environ.pop("JAX_COMPILATION_CACHE_DIR") == str(made[-1])
    assert [folder.stat().st_mode & 0o777 for folder in made] == [0o700] * 3
    assert environment.keep_compiled() == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("folder", ["cache", "cache/compiled", "."])
def test_a_folder_that_others_may_write_to_is_not_used(environment, tmp_path, capsys, folder):
    (tmp_path / "cache/compiled").mkdir(parents=True)
    (tmp_path / folder).chmod(0o777)
    environment.keep_compiled()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith(f"note: {(tmp_path / folder)} may be changed by others")


def test_a_link_that_leads_to_a_folder_of_others_is_not_used(environment, tmp_path):
    (tmp_path / "others").mkdir()
    (tmp_path / "others").chmod(0o777)
    (tmp_path / "cache").symlink_to("others")
    environment.keep_compiled()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_a_folder_that_another_user_owns_is_not_used(environment, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    if tmp_path.stat().st_uid == 0:  # root is trusted
        os.chown(tmp_path, 54321, -1)
    environment.keep_compiled()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_what_would_change_a_models_numbers_is_taken_back(environment, monkeypatch, capsys):
    for name, value in {"JAX_ENABLE_X64": "maybe", "JAX_DEFAULT_PRNG_IMPL": "rbg"}.items():
        monkeypatch.setenv(name, value)
    environment.settle()
    assert not {"JAX_ENABLE_X64", "JAX_DEFAULT_PRNG_IMPL"} & os.environ.keys()
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("note: JAX_ENABLE_X64 is not followed")
    assert second.startswith("note: JAX_DEFAULT_PRNG_IMPL is not followed")


@pytest.fixture
def cli(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "true")
    return importlib.import_module("jaxgpt.commands.cli")


@pytest.mark.parametrize(
    ("failure", "code", "line"),
    [
        (OSError(errno.ENAMETOOLONG, "File name too long", "aaa"), 2, "aaa: the name is too long"),
        (RuntimeError("Unable to initialize backend 'x': none\n"), 2, "Unable to initialize"),
        (ValueError("invalid truth value 'x' for 'JAX_DISABLE_JIT'"), 2, "or unset it"),
        (FloatingPointError("invalid value (nan)"), 5, "invalid value (nan)"),
        (OSError(errno.EIO, "Input/output error"), 6, "Input/output error"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_failure_is_one_line_and_its_exit_code(cli, failure, code, line, monkeypatch, capsys):
    def main(argv):
        raise failure

    monkeypatch.setenv("JAX_DISABLE_JIT", "0")
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit) as stop:
        cli.run(main, [])
    err = capsys.readouterr().err
    assert (stop.value.code, err.count("\n")) == (code, 1)
    assert line in err


def test_a_signal_while_arguments_are_read_is_no_bad_argument(cli, monkeypatch):
    def terminated(*_, **__):
        raise SystemExit(128 + signal.SIGTERM)

    monkeypatch.setattr(cli.tyro, "cli", terminated)
    with pytest.raises(SystemExit) as stop:
        cli.parse(cli.ModelSource, "generate", [], "")
    assert stop.value.code == 128 + signal.SIGTERM


def test_train_alone_trains_the_preset_that_its_help_names(cli, monkeypatch):
    script, trained = importlib.import_module("jaxgpt.commands.train"), []
    monkeypatch.setattr(script, "train", lambda arguments, out: trained.append((arguments, out)))
    script.main([])
    assert trained == [(script.Arguments(find_config("small")), Path("runs/small"))]


def test_a_bug_is_no_bad_input(cli, monkeypatch):
    def main(argv):
        raise ValueError("operands could not be broadcast")

    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(ValueError, match="broadcast"):
        cli.run(main, [])


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("a.txt", "its name must end in .json"),
        ("none/a.json", "in a folder that does not exist"),
        ("folder.json", "is a folder; name a file"),
        ("fifo.json", "is a pipe, socket or device; name a file"),
        ("loop.json", "cannot be written"),
        ("a" * 300 + ".json", "File name too long"),
        ("\0.json", "cannot be written"),
    ],
)
def test_a_file_that_could_not_be_written_is_refused_at_the_start(cli, tmp_path, name, complaint):
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "loop.json").symlink_to("loop.json")
    with pytest.raises(ConfigError, match=complaint):
        cli.check_output("--out", tmp_path / name, ".json")
    cli.check_output("--out", tmp_path / "new.json", ".json")


def test_standard_streams_that_the_shell_closed_are_put_in_place(tmp_path):
    code = (
        "import sys; from jaxgpt.commands import cli\n"
        "def main(argv):\n"
        "    with open('out', 'wb') as file: assert file.fileno() > 2\n"
        "    import os; os.write(2, b'a log'); print('printed'); sys.stdin.read()\n"
        "cli.run(main, [])\n"
    )
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} <&- >&- 2>&-"
    assert subprocess.run(command, shell=True, cwd=tmp_path, check=False).returncode == 0
    assert (tmp_path / "out").read_bytes() == b""


def test_an_interrupt_while_modules_are_imported_is_quiet():
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); import startup; raise KeyboardInterrupt"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (ran.returncode, ran.stderr) == (-signal.SIGINT, b"")


@pytest.mark.parametrize("kind", ["classifier", "instructions", "preferences"])
def test_fine_tuning_has_the_settings_of_every_run(kind, capsys):
    main = importlib.import_module(f"jaxgpt.commands.finetune_{kind}").main
    pages = {}
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            main([flag])
        pages[flag] = capsys.readouterr().out
    for flag in ("--attention", "--unroll", "--data-parallel", "--fsdp", "--profile"):
        assert f"\n  {flag} " in pages["--help-all"]
        assert f"\n  {flag} " not in pages["--help"]
    options = pages["--help"].split("\ntraining\n")[1].splitlines()
    first = [line.split()[0] for line in options if line.lstrip().startswith("--")]
    assert first[:2] == ["--init-from", "--data"]


@pytest.mark.parametrize("error", [SystemExit(128 + signal.SIGTERM), KeyboardInterrupt()])
def test_a_signal_that_is_lost_in_a_callback_comes_again(cli, monkeypatch, error):
    came = threading.Event()
    monkeypatch.setattr(os, "kill", lambda process, number: came.set())
    cli._send_again(types.SimpleNamespace(exc_value=error))
    assert came.wait(5)
