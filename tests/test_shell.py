"""jaxgpt.shell: commands that run as they are printed; and a Python that lacks the packages."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jaxgpt import shell

ROOT = Path(__file__).parents[1]


@pytest.fixture
def started(tmp_path, monkeypatch):
    """`started(python, *argv)`: as if a process had been started so in an empty folder."""

    def start(python, *argv):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "executable", os.path.join(tmp_path, python))
        monkeypatch.setattr(sys, "argv", list(argv))

    return start


def test_the_python_is_named_from_here_where_it_lies_below(started, tmp_path, monkeypatch):
    started(".venv/bin/python", "scripts/train.py", "small", "--data", "my texts/*.txt")
    command = ".venv/bin/python scripts/train.py small --data 'my texts/*.txt'"
    assert shell.this_command() == command
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    assert shell.python("x.py") == f"{tmp_path}/.venv/bin/python x.py"
    monkeypatch.chdir(tmp_path / "..")
    monkeypatch.setattr(sys, "executable", os.path.abspath("python"))
    assert shell.python("x.py") == "./python x.py"  # a bare name would be sought in PATH


def test_what_a_shell_would_take_apart_is_quoted(started):
    started("my env/bin/python", "a b.py", "it's", "$HOME")
    assert shlex.split(shell.this_command()) == ["my env/bin/python", "a b.py", "it's", "$HOME"]
    words = ["\n", "it's\t\\é", "\x1b[2J", "\u202e", "caf\udce9"]
    command = shell.python(*words)
    assert command.isprintable()
    shown = subprocess.check_output(["bash", "-c", f"printf '%s\\0' {command}"])
    assert list(map(os.fsdecode, shown.split(b"\0")[1:-1])) == words
    assert shell.python(Path("-run"), "--out") == "'my env/bin/python' ./-run --out"


def test_a_script_is_the_one_beside_that_which_runs_or_the_checkouts(started, tmp_path):
    started("python", "scripts/train.py")
    there = ROOT / "scripts/chat.py"
    assert shell.command("chat") == shell.python(there)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/chat.py").touch()
    assert shell.command("chat", "--checkpoint", Path("a b")) == (
        "./python scripts/chat.py --checkpoint 'a b'"
    )


def test_the_command_is_named_as_it_was_started(started, tmp_path, monkeypatch):
    started("bin/python", str(tmp_path / "bin/jaxgpt"), "train", "--data", "a b")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/jaxgpt").touch(0o755)
    assert shell.this_command() == "bin/jaxgpt train --data 'a b'"
    assert shell.command("finetune classifier") == "bin/jaxgpt finetune classifier"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert shell.command("prepare", "--out", Path("-x")) == "jaxgpt prepare --out ./-x"
    started("bin/python", str(ROOT / "jaxgpt/__main__.py"), "chat")
    assert shell.this_command() == "bin/python -m jaxgpt chat"


def test_without_a_checkout_a_command_is_that_which_is_installed(started, tmp_path, monkeypatch):
    monkeypatch.setattr(shell, "CHECKOUT", tmp_path / "site-packages")
    started("bin/python", "notebook.py")
    assert shell.command("chat") == "bin/python -m jaxgpt chat"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/jaxgpt").touch(0o755)
    assert shell.command("chat") == "bin/jaxgpt chat"
    assert shell.install_extra("tpu") == "bin/python -m pip install 'jaxgpt[tpu]'"


def test_an_extra_is_installed_from_wherever_one_stands(started, monkeypatch):
    started("python", "train.py")
    assert shell.install_extra("tpu") == f"./python -m pip install -e '{ROOT}[tpu]'"
    monkeypatch.chdir(ROOT)
    assert shell.install_extra("tpu").endswith("python -m pip install -e '.[tpu]'")


@pytest.mark.parametrize("environment", ["", "another", "its own"])
def test_a_python_without_the_packages_names_the_one_that_has_them(tmp_path, environment):
    root = tmp_path / "jax gpt"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    made, ran = root / ".venv/bin/python", sys.executable
    if environment:
        made.parent.mkdir(parents=True)
        made.symlink_to(sys.executable)
    if environment == "its own":
        ran = made
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [ran, "-S", "-B", "scripts/generate.py", "--checkpoint", "a b"],
        capture_output=True,
        text=True,
        cwd=root,
        env=variables,
        check=False,
    )
    use = "use `.venv/bin/python scripts/generate.py --checkpoint 'a b'`"
    advice = {
        "": f"run `make install`, then {use}",
        "another": use,
        "its own": f"run `.venv/bin/python -m pip install -e {shlex.quote(str(root))}`",
    }[environment]
    line = f"error: {ran}: the package jaxgpt is not installed; {advice}\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)
