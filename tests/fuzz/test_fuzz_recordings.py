"""A recording's .npz: read as it was written, or refused; nothing in it is run."""

import io
import json
import warnings
import zipfile

import jax
import numpy as np
import pytest
from harness import Kept, Put, Raw, Whole, attempt, cuts, json_mutations, wholes
from hypothesis import example, given
from hypothesis import strategies as st

from jaxgpt.config import ModelConfig
from jaxgpt.config_file import to_dict
from jaxgpt.errors import CheckpointError
from jaxgpt.model.parameters import init_params
from jaxgpt.parity.recordings.recording import record_model, to_leaves
from jaxgpt.parity.recordings.recording_file import load_recording, save_recording

CONFIG = ModelConfig(vocab_size=11, context_length=4, num_layers=1, num_heads=1, embed_dim=2)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The bytes of a recording."""
    path = tmp_path_factory.mktemp("recordings") / "sound.npz"
    params = init_params(CONFIG, jax.random.key(0))
    save_recording(record_model(CONFIG, params, np.array([[1, 2, 3]])), path)
    return Kept(path.read_bytes())


def check(path, content):
    path.write_bytes(content)
    found = attempt(lambda: load_recording(path), CheckpointError)
    if isinstance(found, CheckpointError):
        return
    assert found.activations["logits"].shape[:2] == found.tokens.shape
    if found.params is not None:
        assert to_leaves(found.params)
    return found


@pytest.mark.slow
@given(mutation=cuts | wholes)
@example(Whole(b"PK\x03\x04"))
@example(Whole(b"PK\x05\x06" + bytes(18)))
def test_a_damaged_archive_is_refused(tmp_path, sound, mutation):
    check(tmp_path / "x.npz", mutation(sound.value))


def with_member(sound, number, change):
    """The archive with one member changed, under a name changed too, and right sums."""
    source = zipfile.ZipFile(io.BytesIO(sound))
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as target, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name given twice
        for i, info in enumerate(source.infolist()):
            content = source.read(info)
            name, content = (
                change(info.filename, content) if i == number else (info.filename, content)
            )
            target.writestr(name, content)
    return made.getvalue()


def npy(header, data=b"", version=1):
    size = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + data


headers = st.text("(){}[]',:<fiO0123456789 \n\tTrueFalsedescr_orderhp-LZ\\\0", max_size=80).map(
    lambda text: Whole(npy(text.encode()))
)
HEADERS = [
    *(b"(((((", b" 1\n  2", b"\t", b"{", b"'", b"{}", b"[]", b"1", b"\0", b"x", b"\\", b"\xff"),
    *(
        b"(" * 900,
        b"-" * 900 + b"1",
        b"1" * 900,
        b"{'descr': '|O', 'fortran_order': False, 'shape': ()}",
    ),
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (1" + b"0" * 400 + b",)}",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -1)}",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}",
    b"{'descr': '<f4', 'fortran_order': 1, 'shape': (0,)}",
    b"{'descr': ('<f4', (1" + b"0" * 300 + b",)), 'fortran_order': False, 'shape': (0,)}",
    b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (0,)}",
    b"{'descr': [], 'fortran_order': False, 'shape': (0,)}",
    b"{'descr': '<f3', 'fortran_order': False, 'shape': (0,)}",
    b"{'descr': '\\ud800', 'fortran_order': False, 'shape': (0,)}",
    b"{'descr': 'V0', 'fortran_order': False, 'shape': (1000000000000,)}",
]


def with_headers(test):
    for header in HEADERS:
        for number in (0, 3):
            test = example(number, Whole(npy(header)), None)(test)
    for descr in ("'<U7'", "[('a', '<U7')]"):
        header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': ()}}".encode()
        content = "float3".encode("utf-32-le") + b"\x32\0\0\1"  # the last is no character
        test = example(0, Whole(npy(header, content)), "dtype.npy")(test)
    test = example(1, Whole(npy(b"{}", version=2)), None)(test)
    test = example(1, Whole(npy(b"{}", version=9)), None)(test)
    return test


names = st.none() | st.sampled_from(
    [
        *(
            "tokens.npy",
            "activations/logits.npy",
            "loss.npy",
            "config.npy",
            "../x.npy",
            "x",
            "x.npy",
        ),
        *("parameters/embed.tokens.npy", "parameters/embed.npy", "parameters/x.y.npy", ".npy"),
        *("parameters/.npy", "gradients/.npy", "activations/.npy", "dtype.npy", "\x1b[2J.npy"),
    ]
)


@pytest.mark.slow
@given(number=st.integers(0, 60), mutation=headers | cuts | wholes, name=names)
@with_headers
def test_hostile_arrays_are_refused(tmp_path, sound, number, mutation, name):
    count = len(zipfile.ZipFile(io.BytesIO(sound.value)).infolist())

    def change(old, content):
        return name or old, mutation(content)

    check(tmp_path / "x.npz", with_member(sound.value, number % count, change))


@pytest.mark.slow
@given(number=st.integers(0, 60), name=names)
@example(0, "parameters/embed.npy")
def test_renamed_arrays_are_refused(tmp_path, sound, number, name):
    count = len(zipfile.ZipFile(io.BytesIO(sound.value)).infolist())
    content = with_member(sound.value, number % count, lambda old, content: (name or old, content))
    found = check(tmp_path / "x.npz", content)
    names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    assert len(set(names)) == len(names) or found is None, "one of two arrays was taken"


@given(mutation=json_mutations)
@example(Put(("num_layers",), 10**400))
@example(Put(("num_layers",), 10**9))
@example(Put(("vocab_size",), 10**400))
@example(Put(("norm_epsilon",), 10**400))
@example(Put(("norm_epsilon",), Raw("1e999")))
@example(Put(("dropout",), "\ud800"))
@example(Whole(b"[" * 100_000))
def test_a_hostile_config_in_a_recording_is_refused(tmp_path, sound, mutation):
    text = mutation(json.dumps(to_dict(CONFIG)).encode()).decode("utf-8", "replace")

    def change(old, content):
        if old != "config.npy":
            return old, content
        made = io.BytesIO()
        np.save(made, np.array(text))
        return old, made.getvalue()

    names = [info.filename for info in zipfile.ZipFile(io.BytesIO(sound.value)).infolist()]
    check(tmp_path / "x.npz", with_member(sound.value, names.index("config.npy"), change))
