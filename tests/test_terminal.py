import errno
import io
import sys

import pytest

from jaxgpt.terminal import escape, escape_pieces, note, one_line, put, say


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 🙂\n\ttext", "plain é 🙂\n\ttext"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\rb\x07\x7f\x9b", "a\\x0db\\x07\\x7f\\x9b"),
        ("\u202eevil\u2066\u200b\ufeff", "\\u202eevil\\u2066\\u200b\\ufeff"),
        ("\u2028\u2029\x85", "\\u2028\\u2029\\x85"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),  # a tag, which no terminal shows
        ("👩\u200d💻 क्\u200cष", "👩\u200d💻 क्\u200cष"),
        ("a\u200db", "a\\u200db"),
    ],
)
def test_escape_spells_out_what_would_steer_a_terminal(text, shown):
    assert escape(text) == shown


def test_one_line_is_one_line():
    assert one_line("a\n\n  b\x1b\tc") == "a b\\x1b c"


def test_say_shows_what_an_encoding_lacks_as_a_question_mark():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1")
    say("é🙂\x1b", stream=stream)
    assert raw.getvalue() == b"\xe9?\\x1b\n"


@pytest.mark.parametrize("stream", [None, "closed", "broken"])
def test_note_survives_a_standard_error_that_is_gone(stream, monkeypatch):
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    if stream is not None:
        stream = Broken() if stream == "broken" else io.StringIO()
        stream.close() if not isinstance(stream, Broken) else None
    monkeypatch.setattr(sys, "stderr", stream)
    note("hello")


def test_note_of_a_signals_handler_comes_through_amid_another(tmp_path, monkeypatch):
    class Interrupted(io.FileIO):
        """A file at whose first write a signal's handler prints."""

        interrupted = False

        def write(self, data):
            if not self.interrupted:
                self.interrupted = True
                note("stopping")
            return super().write(data)

    raw = Interrupted(tmp_path / "errors", "w")
    with io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        note("step 1")
        monkeypatch.undo()
    assert (tmp_path / "errors").read_text().split("\n") == ["stopping", "step 1", ""]


def test_put_leaves_the_text_to_the_program_that_reads_it():
    stream = io.StringIO()
    put("\x1b[2J\u202e", stream)
    assert stream.getvalue() == "\x1b[2J\u202e"


def test_put_takes_a_terminal_that_was_closed_for_a_reader_that_is_gone():
    class Closed(io.StringIO):
        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(BrokenPipeError):
        put("hello", Closed())


def test_pieces_of_a_text_are_escaped_as_the_whole():
    text = "👩\u200d💻\x1b \u06cc\u200c\u062e a\u200db"
    assert "".join(escape_pieces(text)) == escape(text)
    assert "".join(escape_pieces(["👩", "", "\u200d💻"])) == "👩\u200d💻"
