"""scripts/chat.py: what a person at a terminal sees, and what a program at a pipe reads."""

import importlib
import io
import os
import pty
import select
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jaxgpt.assistant import chat as chat_module
from jaxgpt.assistant.chat import Chat
from jaxgpt.assistant.chat_config import ChatConfig
from jaxgpt.config import ModelConfig, TrainConfig
from jaxgpt.finetuning.instructions import read_conversations
from jaxgpt.finetuning.templates import TEMPLATES, Turn
from jaxgpt.generation.settings import SamplingConfig
from jaxgpt.tokenization.bpe import train_bpe
from jaxgpt.training.checkpoint import LoadedModel, load_model, save_model

SCRIPTS = Path(__file__).parents[2] / "scripts"
CLASSIFIER = {"kind": "classification", "classes": ["a", "b"], "pooling": "last"}
GREEDY = SamplingConfig(temperature=0.0)
SECONDS = 60  # after which a session counts as hanging


@pytest.fixture(scope="module")
def folder(tmp_path_factory, random_params):
    """A model that never ends an answer by itself, if the likeliest token is taken."""
    tokenizer = train_bpe(["Name the hero. Who was kind? "] * 9, 270)
    sizes = {"context_length": 1 << 16, "num_layers": 1, "num_heads": 2, "embed_dim": 8}
    config = ModelConfig(vocab_size=tokenizer.vocab_size, **sizes)
    params = random_params(config)
    params["embed"]["tokens"] = params["embed"]["tokens"].at[tokenizer.end_of_text].set(0.0)
    task = {"kind": "instructions", "template": "phi"}
    folder = tmp_path_factory.mktemp("chat") / "tuned"
    save_model(folder, LoadedModel(config, params, tokenizer, 0, TrainConfig(model=config), task))
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture
def script(monkeypatch):
    return importlib.import_module("jaxgpt.commands.chat")


@pytest.fixture
def run(script, folder, monkeypatch, capsys):
    """`run(stdin, *arguments)`: exit code, standard output, standard error."""
    cli = importlib.import_module("jaxgpt.commands.cli")

    def run(stdin, *arguments, checkpoint=folder, encoding=None):
        argv = ["chat.py", "--checkpoint", str(checkpoint), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", argv)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding))
        code = 0
        try:
            cli.run(script.main, argv[1:])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def scripted(monkeypatch):
    """`scripted(*answers)`: the model writes these, letter by letter; ! is Ctrl-C."""

    def scripted(*answers):
        left = list(answers)

        def generate_text(model, prompt, **options):
            for letter in left.pop(0):
                if letter == "!":
                    signal.raise_signal(signal.SIGINT)
                else:
                    yield letter

        monkeypatch.setattr(chat_module, "generate_text", generate_text)

    return scripted


@pytest.fixture
def typed(script, model, capsys):
    """`typed(*lines)`: the chat, standard output and standard error of a session at a terminal."""

    def typed(*lines, chat=None):
        chat, left = chat or Chat(model, TEMPLATES["phi"]), list(lines)

        def read():
            if not left:
                raise EOFError
            if left[0] == "!":
                left.pop(0)
                raise KeyboardInterrupt
            return left.pop(0)

        script.talk(chat, read, interactive=True)
        return chat, *capsys.readouterr()

    return typed


def test_piped_a_line_in_is_an_answer_out_and_nothing_else(run, model):
    chat = Chat(model, TEMPLATES["phi"], ChatConfig("Be kind.", 5, 3, GREEDY))
    first, second = ("".join(chat.reply(message)) for message in ("Who?", "/etc?"))
    flags = ("--system", "Be kind.", "--max-new-tokens", 5, "--seed", 3, "--temperature", 0)
    assert run(b"Who?\r\n\n /etc?", *flags) == (0, f"{first}\n{second}\n", "")
    assert run(b"", *flags) == (0, "", "")


def test_piped_errors_are_a_line_each_and_the_session_goes_on(run, scripted):
    scripted("one", "two")
    code, out, err = run(b"/retry\na\n/temperature hot\n/tempreature 1\nb\xff\nc\n")
    # A line for each message, also where it is refused; but none for a setting.
    assert (code, out) == (3, "\none\n\n\ntwo\n")
    assert "nothing was said yet" in err
    err = err.partition("\n")[2]
    errors = err.splitlines()
    assert [line.partition(" ")[0] for line in errors] == ["error:"] * 3
    assert "did you mean /temperature?" in errors[1]
    assert "lone surrogate" in errors[2]


def test_piped_a_message_is_utf8_whatever_the_encoding(run, script, monkeypatch):
    said = []
    monkeypatch.setattr(script, "show", lambda chat, pieces, interactive: said.append(pieces))
    monkeypatch.setattr(Chat, "reply", lambda chat, message: message)
    assert run("é🙂".encode(), encoding="latin-1") == (0, "", "")
    assert said == ["é🙂"]


def test_a_message_that_can_pass_for_a_turn_is_named(run, typed, scripted, model):
    scripted("one", "two")
    code, out, err = run(b"Hi <|assistant|>\n")
    assert (code, out) == (0, "one\n")
    assert err == "(the message holds '<|assistant|>', which the model takes for a new turn)\n"
    names = TEMPLATES["phi"].special_tokens
    special = replace(model, tokenizer=model.tokenizer.with_special_tokens(names))
    assert Chat(special, TEMPLATES["phi"]).plain_markers == ()
    assert "### Response:" in Chat(special, TEMPLATES["alpaca"]).plain_markers


def test_piped_an_interrupt_leaves(run, scripted):
    scripted("on!ce")
    assert run(b"a\nb\n")[:2] == (130, "onc")


def test_control_characters_do_not_reach_a_terminal(run, typed, scripted):
    scripted("\x1b[2Jhi", "\x1b[2Jhi")
    assert run(b"a\n")[1] == "\x1b[2Jhi\n"
    _, out, err = typed("a", "/history", "/\x1b[2J")
    assert out == "\\x1b[2Jhi\n"
    assert "\x1b" not in err


def test_an_interrupt_ends_the_answer_and_not_the_session(typed, scripted):
    scripted("on!ce upon", "!", "two")
    chat, out, err = typed("a", "b", "!", "c")
    assert out == "onc\n\ntwo\n"
    assert err.splitlines() == [
        "(stopped; what was written is kept as the answer)",
        "(nothing was written, so the conversation is as it was)",
        "",
        "(Ctrl-D or /quit leaves)",
        "",
    ]
    assert [turn.text for turn in chat.turns] == ["a", "onc", "c", "two"]


def test_what_is_left_out_is_said(typed, scripted, model):
    scripted("one", "two", "three")
    small = replace(model, config=replace(model.config, context_length=128))
    chat = Chat(small, TEMPLATES["phi"], ChatConfig(max_new_tokens=20))
    _, out, err = typed("a" * 30, "b" * 30, "c" * 200, "d", chat=chat)
    assert out == "one\ntwo\nthree\n"
    error, notice = err.splitlines()[-3:-1]
    assert error.startswith("error: the message takes 2")
    assert notice == ("(the context of 128 tokens is full; left out: the oldest 1 of 2 exchanges)")


def test_commands(typed, scripted, tmp_path):
    scripted("one", "two", "three", "four")
    path = tmp_path / "chat.jsonl"
    lines = ["a", "b", "/retry", f"/save {path}", "/undo", "/history", "/system Be kind."]
    chat, out, err = typed(*lines, "/top-k 5", "/settings", "/reset", "d", "/quit", "e")
    assert out == "one\ntwo\nthree\nfour\n"
    (saved,) = read_conversations([path])
    assert [turn.text for turn in saved.turns] == ["a", "one", "b", "three"]
    assert chat.turns == (Turn("user", "d"), Turn("assistant", "four"))
    assert (chat.config.system, chat.config.sampling.top_k) == ("Be kind.", 5)
    assert "(exchanges left: 1)\nuser> a\nassistant> one\n" in err
    shown = dict(line.split(maxsplit=1) for line in err.splitlines() if line[:1].isalpha())
    values = {name: repr(value) for name, value in chat.config.values().items()}
    assert values.items() <= shown.items()


def test_every_command_is_listed_and_known(typed, script, scripted, tmp_path):
    scripted("one", "two")
    _, _, err = typed("/help")
    for name in (*script.COMMANDS, *script.SETTINGS):
        assert name in err
    values = {"/system": "Be kind.", "/save": tmp_path / "chat.jsonl"}
    names = [command.split()[0] for command in script.COMMANDS]
    commands = [f"{name} {values.get(name, '')}" for name in ("/history", *names)]
    _, _, err = typed("a", *commands[:-1], *(f"{name} 1" for name in script.SETTINGS), "/quit")
    assert err.count("error: ") == 2  # after /reset there is nothing to save; a min_p of 1
    assert "there is no command" not in err


def test_a_line_that_ends_with_a_backslash_goes_on(script, monkeypatch):
    prompts, lines = [], ["one\\", "two\\", "three"]
    monkeypatch.setattr("builtins.input", lambda prompt: prompts.append(prompt) or lines.pop(0))
    assert script.typed() == "one\ntwo\nthree"
    assert prompts == ["you> ", "...> ", "...> "]


def test_which_models_can_chat(run, model, tmp_path, scripted):
    scripted("one")
    save_model(tmp_path / "base", replace(model, task={}))
    with pytest.warns(UserWarning, match="trained on texts alone"):
        assert run(b"a\n", checkpoint=tmp_path / "base")[:2] == (0, "one\n")
    save_model(tmp_path / "classifier", replace(model, task=CLASSIFIER))
    code, out, err = run(b"a\n", checkpoint=tmp_path / "classifier")
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert "classifier" in err
    code, out, err = run(b"a\n", "--template", "fi")
    assert (code, out) == (2, "")
    assert "no template is called fi" in err


@pytest.fixture
def editor(script, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXGPT_CACHE", str(tmp_path))
    return importlib.import_module("jaxgpt.commands.line_editor")


def test_what_was_typed_is_kept_beside_what_another_session_kept(editor, tmp_path):
    assert editor.read_history() == []
    editor.keep_history([])
    assert os.listdir(tmp_path) == []
    editor.keep_history(["/system Be kind.", "caf\udce9"])
    editor.keep_history([f"line {number}" for number in range(999)])
    assert editor.read_history()[:2] == ["caf\udce9", "line 0"]  # the newest thousand
    assert (tmp_path / "chat_history").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("change", ["writable", "link", "folder", "another's"])
def test_a_history_that_is_not_the_users_alone_is_left_alone(
    editor, change, tmp_path, monkeypatch, capsys
):
    kept, there = tmp_path / "chat_history", tmp_path / "there"
    there.write_text("typed")
    there.chmod(0o602 if change == "writable" else 0o600)
    if change == "folder":
        kept.mkdir()
    elif change == "link":
        kept.symlink_to(there)
    else:
        there.rename(kept)
    if change == "another's":
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert editor.read_history() is None
    assert capsys.readouterr().err.count("\n") == 1
    editor.keep_history(["more"])
    assert kept.is_dir() or kept.read_text() == "typed"


def test_piped_nothing_is_kept(run, scripted, editor, tmp_path):
    scripted("one")
    assert run(b"hello\n") == (0, "one\n", "")
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_a_session_at_a_terminal(folder, tmp_path):
    kept = tmp_path / "chat_history"
    kept.write_text("hello\n")
    kept.chmod(0o600)
    controller, terminal = pty.openpty()
    # The terminal sends Ctrl-C to the session that it belongs to.
    argv = f"chat.py --checkpoint {folder} --temperature 0 --max-new-tokens 60000"
    code = f"import os, runpy, sys; os.login_tty(0); sys.argv = {argv.split()}; "
    process = subprocess.Popen(
        [sys.executable, "-c", code + "runpy.run_path('chat.py', run_name='__main__')"],
        cwd=SCRIPTS,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=os.environ
        | {"TERM": "dumb", "PYTHONPATH": f"{SCRIPTS}:{SCRIPTS.parent}"}
        | {"JAXGPT_CACHE": str(tmp_path)},
    )
    os.close(terminal)
    shown = ""

    def until(text):
        nonlocal shown
        while text not in shown:
            assert select.select([controller], [], [], SECONDS)[0], f"no {text!r} in {shown!r}"
            shown += os.read(controller, 4096).decode(errors="replace")
        before, _, shown = shown.partition(text)
        return before

    def press(keys):
        os.write(controller, keys)

    try:
        assert "65536 tokens; /help" in until("you> ")
        press(b"\x10\r")  # the line before, of the last session
        until("Z" * 32)  # as this model goes on
        press(b"\x03")
        assert "(stopped; " in until("you> ")
        press(b"/hist\t\r")
        assert "user> hello" in until("you> ")
        press(b"\x04")
        assert process.wait(SECONDS) == 0
        assert kept.read_text() == "hello\n/history\n"  # what is repeated stands once
        assert kept.stat().st_mode & 0o777 == 0o600
    finally:
        process.kill()
        process.wait()
        os.close(controller)
