import json
import subprocess
import sys
import time

import pytest
import tiktoken

from jaxgpt.errors import DataError
from jaxgpt.tokenization import bpe_tokenizer, tokenizer
from jaxgpt.tokenization.bpe import train_bpe
from jaxgpt.tokenization.gpt2_vocabulary import GPT2_PATTERN
from jaxgpt.tokenization.tokenizer import (
    BPETokenizer,
    ByteTokenizer,
    Tokenizer,
    WordTokenizer,
    load_tokenizer,
)

BYTES = {bytes([byte]): byte for byte in range(256)}
TEXT = "the cat sat on the mat, the cat's mat\r\n\x00 naïve 😀 <|endoftext|> the end"


def bpe(**changes) -> BPETokenizer:
    arguments = {
        "name": "bpe",
        "pattern": GPT2_PATTERN,
        "ranks": {**BYTES, b"th": 256, b"the": 257},
        "special_tokens": {"<|endoftext|>": 258},
    }
    return BPETokenizer(**arguments | changes)


TOKENIZERS = {
    "bytes": ByteTokenizer(),
    "bpe": train_bpe([TEXT], 280),
    "words": WordTokenizer.train("a b, c"),
    "words without unknown": WordTokenizer.train("a b", unknown=False),
}


@pytest.fixture(params=TOKENIZERS)
def any_tokenizer(request):
    return TOKENIZERS[request.param]


def test_every_tokenizer_keeps_the_contract(any_tokenizer):
    assert isinstance(any_tokenizer, Tokenizer)
    ids = any_tokenizer.encode("a b")
    assert all(0 <= token < any_tokenizer.vocab_size for token in ids)
    assert any_tokenizer.decode(ids) == "a b"
    cut = len(ids) // 2
    assert any_tokenizer.decode_bytes(ids[:cut]) + any_tokenizer.decode_bytes(
        ids[cut:]
    ) == any_tokenizer.decode_bytes(ids)
    assert any_tokenizer.encode("") == []
    assert any_tokenizer.decode([]) == ""


def test_what_no_tokenizer_takes(any_tokenizer):
    for bad in (-1, any_tokenizer.vocab_size):
        with pytest.raises(DataError, match=f"id {bad} at position 1"):
            any_tokenizer.decode([0, bad])
    with pytest.raises(DataError, match=r"U\+D800 at character 2"):
        any_tokenizer.encode("a \ud800")
    with pytest.raises(DataError, match="surrogate"):
        any_tokenizer.encode("a \ud800", allow_special=True)


def test_every_tokenizer_is_read_back_from_its_folder(any_tokenizer, tmp_path):
    any_tokenizer.save(tmp_path / "folder")
    for spec in (tmp_path / "folder", str(tmp_path / "folder")):
        again = load_tokenizer(spec)
        assert type(again) is type(any_tokenizer)
        for field in ("name", "vocab_size", "end_of_text", "fingerprint"):
            assert getattr(again, field) == getattr(any_tokenizer, field)
        assert again.encode("a b a") == any_tokenizer.encode("a b a")


@pytest.mark.parametrize("name", ["bytes", "bpe"])
def test_any_text_round_trips(name):
    tokens = TOKENIZERS[name].encode(TEXT)
    assert TOKENIZERS[name].decode(tokens) == TEXT
    assert TOKENIZERS[name].decode_bytes(tokens) == TEXT.encode()


def test_bytes_are_their_own_ids():
    assert ByteTokenizer().encode("é<|endoftext|>", allow_special=True)[:3] == [0xC3, 0xA9, 60]
    assert ByteTokenizer().decode([0xC3]) == "\N{REPLACEMENT CHARACTER}"
    assert ByteTokenizer().end_of_text is None


def test_broken_characters_decode_to_the_replacement_and_keep_their_bytes():
    ids = bpe().encode("😀")
    assert bpe().decode(ids[:2]) == "\N{REPLACEMENT CHARACTER}"
    assert bpe().decode_bytes(ids[:2]) == "😀".encode()[:2]


def test_special_tokens_only_on_request():
    assert 258 not in bpe().encode("the<|endoftext|>")
    assert bpe().encode("the<|endoftext|>", allow_special=True) == [257, 258]
    assert bpe().decode([257, 258]) == "the<|endoftext|>"


def test_the_fingerprint_tells_apart_what_encodes_differently():
    same = bpe(name="another name").fingerprint
    assert same == bpe().fingerprint
    others = [
        bpe(pattern=r"\s+|\S+"),
        bpe(special_tokens={"<|end|>": 258}),
        bpe(ranks={**BYTES, b"th": 256, b"he": 257}),
        *TOKENIZERS.values(),
    ]
    assert len({same, *(other.fingerprint for other in others)}) == 1 + len(others)


def test_an_unused_id_is_named():
    gap = bpe(special_tokens={"<|endoftext|>": 270})
    assert gap.vocab_size == 271
    with pytest.raises(DataError, match="260"):
        gap.decode([260])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"ranks": {**BYTES, b"th": 300}}, "id 258 where 256 is due"),
        ({"ranks": {b"a": 0}}, "256 bytes missing"),
        ({"special_tokens": {"<|a|>": 97}}, "id 97 where 98 is due"),
        ({"special_tokens": {"<|a|>": 2**40}}, "ids must be below"),
        ({"pattern": "("}, "refuses"),
        ({"pattern": r"\p{L}+"}, "leaves out characters"),
        ({"pattern": ""}, "leaves out characters"),
        ({"special_tokens": {"": 257}}, "special token without characters"),
        ({"special_tokens": {"<|a|>": 1 << 31}}, r"ids must be below 2\^31"),
        ({"special_tokens": {"<|a|>": 10**40}}, r"ids must be below 2\^31"),
    ],
)
def test_a_vocabulary_that_cannot_work_is_refused(changes, complaint):
    with pytest.raises(DataError, match=complaint):
        bpe(**changes)


def test_a_text_that_the_pattern_cannot_split_is_refused(capfd):
    with pytest.raises(DataError, match="a million spaces"):
        bpe().encode(" " * 1_000_000 + "x")


def damage_record(**changes):
    def damage(folder):
        path = folder / "tokenizer.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def damage_ranks(old: bytes, new: bytes):
    def damage(folder):
        path = folder / "ranks.tiktoken"
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new, 1))

    return damage


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (damage_ranks(b"dGhl 257\n", b""), "its sha256 is"),
        (damage_ranks(b"dGg= 256\n", b""), "id 257 where 256 is due"),
        (damage_ranks(b"YQ== 97\n", b"YWI= 97\n"), "no token for byte 0x61"),
        (damage_ranks(b"dGhl 257\n", b"dGg= 257\n"), "given twice"),
        (damage_ranks(b"dGhl 257\n", b"dGhl 25"), "id 25"),
        (damage_ranks(b"dGhl 257\n", b"dGh"), "not a base64 token"),
        (damage_ranks(b"dGhl 257\n", b"dGhm 257\n"), "its sha256 is"),
        (damage_record(pattern=r"\s+|\S+"), "its sha256 is"),
        (damage_record(pattern=3), "describes no tokenizer"),
        (damage_record(special_tokens={"<|a|>": "3"}), "describes no tokenizer"),
        (damage_record(special_tokens={}), "its sha256 is"),
        (damage_record(kind="unigram"), "describes no tokenizer"),
        (damage_record(kind="words", unknown=True, words=[1]), "describes no tokenizer"),
        (damage_record(kind="words", unknown=True, words=["a", "a"]), "one twice"),
        (damage_record(sha256=None), "the record says None"),
        (lambda folder: (folder / "ranks.tiktoken").unlink(), "cannot be read"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "cannot be read"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "is not JSON"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path, damage, complaint):
    bpe().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=complaint):
        load_tokenizer(tmp_path)


def test_gpt2_is_found_by_name_and_by_file(tmp_path, monkeypatch):
    ranks = {**BYTES, b"th": 256}
    monkeypatch.setattr(tokenizer, "gpt2_ranks", lambda: ranks)
    monkeypatch.setattr(tokenizer, "read_gpt2_file", lambda path: ranks)
    (tmp_path / "vocab.bpe").touch()
    for spec in ("gpt2", tmp_path / "vocab.bpe"):
        gpt2 = load_tokenizer(spec)
        assert (gpt2.name, gpt2.vocab_size, gpt2.end_of_text) == ("gpt2", 258, 257)


def test_a_path_is_never_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bpe().save(tmp_path / "bytes")
    assert load_tokenizer(tmp_path / "bytes").name == "bpe"
    assert load_tokenizer("bytes").name == "bytes"


def test_another_encoding_of_tiktoken(monkeypatch):
    encoding = tiktoken.Encoding(
        "small", pat_str=r"\s+|\S+", mergeable_ranks=BYTES, special_tokens={"<|endoftext|>": 300}
    )
    monkeypatch.setattr(tiktoken, "list_encoding_names", lambda: ["gpt2", "small"])
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: encoding)
    small = load_tokenizer("small")
    assert (small.name, small.vocab_size, small.end_of_text) == ("small", 301, 300)
    assert small.encode("a b") == [97, 32, 98]


def test_an_encoding_that_cannot_be_had(monkeypatch):
    with pytest.raises(DataError, match=r"no tokenizer 'gpt3': .* use gpt2, bytes, cl100k_base, "):
        load_tokenizer("gpt3")

    def offline(name):
        raise ConnectionError("no route")

    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    with pytest.raises(DataError, match=r"cannot provide 'cl100k_base' \(ConnectionError: no rou"):
        load_tokenizer("cl100k_base")
    monkeypatch.setattr(bpe_tokenizer, "DOWNLOAD_SECONDS", 0.05)
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: time.sleep(1.0))
    with pytest.raises(DataError, match=r"no answer within 0\.05 s"):
        load_tokenizer("cl100k_base")

    def clash():
        raise ValueError("Duplicate encoding name gpt2 in tiktoken plugin")

    monkeypatch.setattr(tiktoken, "list_encoding_names", clash)
    with pytest.raises(DataError, match="Duplicate encoding name"):
        load_tokenizer("cl100k_base")


def test_tokenizers_do_without_jax():
    modules = "jaxgpt.tokenization.tokenizer, jaxgpt.tokenization.bpe"
    code = f"import sys, {modules}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
