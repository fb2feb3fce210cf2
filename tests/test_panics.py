"""Panics of Rust libraries: caught, and not shown."""

import os

import pytest
import tiktoken

from jaxgpt.panics import PanicError, caught_panics

SPACES = " " * 1_100_000


@pytest.fixture(scope="module")
def encoding():
    """An encoding that panics on a million spaces."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    return tiktoken.Encoding("x", pat_str=r"\s+(?!\S)|\s", mergeable_ranks=ranks, special_tokens={})


def test_a_panic_is_an_error_and_silent(encoding, capfd):
    with pytest.raises(PanicError), caught_panics(), caught_panics():
        encoding.encode_ordinary(SPACES + "x")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def test_what_else_is_written_is_shown_afterwards(capfd):
    with caught_panics():
        os.write(2, b"meanwhile")
        assert capfd.readouterr().err == ""
    assert capfd.readouterr().err == "meanwhile"


def test_it_works_without_a_standard_error():
    saved = os.dup(2)
    os.close(2)
    try:
        with pytest.raises(ValueError, match="of the body"), caught_panics():
            raise ValueError("of the body")
    finally:
        os.dup2(saved, 2)
        os.close(saved)
