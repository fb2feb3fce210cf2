"""A shell completes commands and flags by the script alone."""

import subprocess

import pytest

from jaxgpt.commands.completion import script
from jaxgpt.shell import COMMANDS


@pytest.fixture(scope="module")
def complete():
    """`complete(*words)`: what bash offers in place of the last word."""
    asked = 'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _jaxgpt; echo "${COMPREPLY[*]}"'
    lines = f"{script('bash')}\n{asked}"

    def run(*words):
        command = ["bash", "--norc", "-c", lines, "bash", "jaxgpt", *words]
        ran = subprocess.run(command, capture_output=True, text=True, env={}, check=True)
        assert ran.stderr == ""
        return ran.stdout.split()

    return run


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["tra"], ["train", "trajectories"]),
        (["train", "ti"], ["tiny"]),
        (["train", "tiny", "--batch"], ["--batch-size"]),
        (["train", "--no-q"], ["--no-qkv-bias"]),
        (["finetune", ""], ["classifier", "instructions", "preferences"]),
        (["finetune", "classifier", "--pool"], ["--pooling"]),
        (["finetune", "instructions", "--pool"], []),
        (["evaluate", "duplicates", "--thr"], ["--threshold"]),
        (["evaluate", "--str"], ["--stride"]),
        (["chat", "--checkpoint", ""], []),  # bash then offers files
        (["compare", "--sa"], ["--save"]),
        (["nothing", "-"], []),
    ],
)
def test_bash_offers_commands_and_their_flags(complete, words, offered):
    assert complete(*words) == offered


def test_every_command_is_offered(complete):
    assert complete("") == list(dict.fromkeys(name.split()[0] for name in COMMANDS))
    for name in COMMANDS:
        assert "--help" in complete(*name.split(), "--h"), name


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_know_the_same_words(shell):
    words = set(script("bash").replace('"', " ").split())
    flags = {word for word in words if word.startswith("--")} - {"--"}
    assert len(flags) > 100
    assert flags <= set(script(shell).replace('"', " ").split())
