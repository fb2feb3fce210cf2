"""What every fuzz test shares: how a sound file is damaged, and what a parser may then do.

A mutation is called with the bytes of a sound file and gives those to try. `attempt` runs a parser
on them: it returns the parser's value or the error it refused with, and fails on all else, such as
another exception, a panic printed by Rust, a hang, or memory taken beyond reason.
"""

import copy
import faulthandler
import io
import json
import os
import resource
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from jaxgpt.errors import JaxgptError
from jaxgpt.terminal import one_line

SECONDS, MEGABYTES = 10, 400
TRIED: Counter[str] = Counter()
REFUSED: Counter[str] = Counter()

_ERRORS = tempfile.TemporaryFile()  # noqa: SIM115, stands in for file descriptor 2


class TooSlow(AssertionError):
    """A parser that did not come to an end."""


def attempt(parse: Callable[[], Any], *wanted: type[JaxgptError]) -> Any:
    """The value of `parse()`, or the error of a class in `wanted` that it refused with."""
    name = os.environ["PYTEST_CURRENT_TEST"].rpartition("::")[2].partition(" ")[0]
    TRIED[name] += 1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with warnings.catch_warnings(), _watchdog(), _nothing_on_stderr():
            warnings.simplefilter("ignore")
            value = parse()
    except wanted as error:
        REFUSED[name] += 1
        value = error
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    assert grown < MEGABYTES, f"{grown} MB were taken"
    assert not isinstance(value, JaxgptError) or one_line(str(value)), "it says nothing"
    return value


class Kept:
    """A fixture's value that is too long for the report of a failure."""

    def __init__(self, value: Any):
        self.value = value


@contextmanager
def _watchdog():
    late = []

    def stop(*_):
        late.append(TooSlow(f"not done after {SECONDS} seconds of the processor"))
        raise late[0]

    handler = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # whatever else a busy machine does
    # Code that is not Python's never gets to see the signal, and who waits takes no time.
    faulthandler.dump_traceback_later(12 * SECONDS, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        if late:  # whatever the parser made of it
            raise late[0]


@contextmanager
def _nothing_on_stderr():
    _ERRORS.seek(0)
    _ERRORS.truncate()
    kept = os.dup(2)
    os.dup2(_ERRORS.fileno(), 2)
    try:
        with redirect_stderr(io.StringIO()):  # a warning of Python's own code is no panic
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    _ERRORS.seek(0)
    printed = _ERRORS.read()
    assert not printed, f"printed: {printed[:300]}"


@contextmanager
def replaced(path: Path, content: bytes):
    """The file `path` with another content for as long as the body runs."""
    sound = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(sound)


@dataclass(frozen=True)
class Raw:
    """Text that stands in a JSON file as it is, be it JSON or not."""

    text: str


@dataclass(frozen=True)
class Whole:
    """The mutation to another content altogether."""

    content: bytes

    def __call__(self, sound: bytes) -> bytes:
        return self.content


@dataclass(frozen=True)
class Cut:
    """The mutation of bytes: each edit is an action, a place (in millionths), a length, a byte."""

    edits: tuple[tuple[str, int, int, int], ...]

    def __call__(self, sound: bytes) -> bytes:
        for action, place, length, byte in self.edits:
            start = place * len(sound) // 1_000_000
            before, part, after = sound[:start], sound[start : start + length], sound[start:]
            rest = after[length:]
            match action:
                case "flip":
                    flipped = bytes([after[0] ^ 1 << byte % 8]) if after else b""
                    sound = before + flipped + after[1:]
                case "set":
                    sound = before + bytes([byte]) + after[1:]
                case "insert":
                    sound = before + bytes([byte]) * length + after
                case "delete":
                    sound = before + rest
                case "double":
                    sound = before + part + after
                case "zero":
                    sound = before + bytes(len(part)) + rest
                case "truncate":
                    sound = before
        return sound


@dataclass(frozen=True)
class Put:
    """The mutation of one value in a JSON file: the one at `path`, a new one too, becomes `value`.

    The value `...` removes it.
    """

    path: tuple[str | int, ...]
    value: Any

    def __call__(self, sound: bytes) -> bytes:
        return to_json(self.into(json.loads(sound))).encode()

    def into(self, tree: Any) -> Any:
        tree = copy.deepcopy(tree)
        *folders, last = self.path
        node = tree
        for name in folders:
            node = node[name]
        if self.value is ...:
            del node[last]
        else:
            node[last] = self.value
        return tree


@dataclass(frozen=True)
class Tree:
    """The mutation of a JSON file's values: each edit is an action, a place, and a value."""

    edits: tuple[tuple[str, int, Any], ...]

    def __call__(self, sound: bytes) -> bytes:
        return to_json(self.into(json.loads(sound))).encode()

    def into(self, tree: Any) -> Any:
        tree = copy.deepcopy(tree)
        for action, place, value in self.edits:
            places = list(_places(tree))
            if not places:
                return value
            node, key = places[place % len(places)]
            match action:
                case "replace":
                    node[key] = copy.deepcopy(value)  # or it might come to hold itself
                case "delete":
                    del node[key]
                case "wrap":
                    node[key] = [node[key]]
                case "rename" if isinstance(node, dict):
                    node[_key(value)] = node.pop(key)
                case "add" if isinstance(node, dict):
                    node[_key(value)] = node[key]
                case "move":
                    other, name = places[(place + 1) % len(places)]
                    node[key] = copy.deepcopy(other[name])
        return tree


def _places(node: Any):
    """Each container and key below `node`."""
    if isinstance(node, dict | list):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            yield node, key
            yield from _places(node[key])


def _key(value: Any) -> str:
    return value if isinstance(value, str) else str(value)[:20]


def to_json(value: Any) -> str:
    """JSON as json.dumps writes it, with what is `Raw` in its place."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(k)}: {to_json(v)}' for k, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(to_json, value))}]"
    return json.dumps(value)


HOSTILE = [
    *(Raw("1e999"), Raw("-1e999"), 10**400, Raw("Infinity"), Raw("-Infinity"), Raw("NaN")),
    *(Raw("[" * 100_000), Raw('{"a":' * 100_000), Raw('{"a": 1, "a": 2}')),
    *(-1, 0, 1, 2, 3, 2**31, 2**63, 2**64, -(2**63), 1e-60, 1e300, 0.5, -0.0, 1e-320),
    *("", " ", "\0", "a\0", "\ud800", "\x1b[2J", "\u202e", "a" * 5000, "é" * 200, "\n", "1", "nan"),
    *("../x", "/etc/passwd", "..", ".", "a/../../b", "/dev/zero", "C:\\x", "a/b", "a" * 300),
    *("<|endoftext|>", "[", "{", "(", "*", "%s", "$x^", "\\", "'", '"', "true", "null"),
    *(None, True, False, [], {}, [[]], [{}], {"": {}}, [None], ["a"], {"a": "b"}, [1, "a", None]),
]
"""What a file might have that nobody wrote in good faith."""

values = st.one_of(
    st.sampled_from(HOSTILE),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.recursive(
        st.none() | st.booleans() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=4,
    ),
)
trees = st.lists(
    st.tuples(
        st.sampled_from(["replace", "delete", "wrap", "rename", "add", "move"]),
        st.integers(0, 500),
        values,
    ),
    min_size=1,
    max_size=3,
).map(lambda edits: Tree(tuple(edits)))
cuts = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "insert", "delete", "double", "zero", "truncate"]),
        st.integers(0, 999_999),
        st.integers(1, 40),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=3,
).map(lambda edits: Cut(tuple(edits)))
flips = st.builds(
    lambda place, bit: Cut((("flip", place, 1, bit),)),
    st.integers(0, 999_999),
    st.integers(0, 7),
)
"""One flipped bit."""
wholes = st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)).map(Whole)
json_mutations = st.one_of(trees, trees, cuts, wholes)
