"""A tokenizer's folder: damaged it is refused, and one that is accepted loses no text."""

import base64
import json
import shutil
from contextlib import suppress

import pytest
from harness import HOSTILE, Put, Raw, Whole, attempt, cuts, json_mutations, replaced, trees, wholes
from hypothesis import example, given
from hypothesis import strategies as st

from jaxgpt.errors import DataError
from jaxgpt.tokenization.bpe import train_bpe
from jaxgpt.tokenization.gpt2_vocabulary import GPT2_PATTERN
from jaxgpt.tokenization.tokenizer import ByteTokenizer, load_tokenizer
from jaxgpt.tokenization.vocabulary import RANKS, RECORD, fingerprint, format_ranks, parse_ranks
from jaxgpt.tokenization.words import WordTokenizer

TEXT = (
    "Once upon a time a king's 17 ships, <|endoftext|> set sail: café, 日本, \U0001f600.\r\n\t  \n"
)
KINDS = ("bpe", "words", "bytes")
SPECIAL = ("special_tokens",)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    bpe = train_bpe([TEXT] * 9, 265)
    for name, tokenizer in zip(
        KINDS, (bpe, WordTokenizer.train(TEXT), ByteTokenizer()), strict=True
    ):
        tokenizer.save(root / name)
    return root


@given(kind=st.sampled_from(KINDS), mutation=json_mutations)
@example("bpe", Put(("pattern",), "x"))
@example("bpe", Put(SPECIAL, {"": 265}))
@example("bpe", Whole(b"[" * 100_000))
def test_a_damaged_record_is_refused(folders, kind, mutation):
    folder = folders / kind
    sound = load_tokenizer(folder)
    with replaced(folder / RECORD, mutation((folder / RECORD).read_bytes())):
        found = attempt(lambda: load_tokenizer(folder), DataError)
    assert isinstance(found, DataError) or found.fingerprint == sound.fingerprint


@given(mutation=cuts | wholes)
def test_damaged_ranks_are_refused(folders, mutation):
    folder = folders / "bpe"
    sound = load_tokenizer(folder)
    with replaced(folder / RANKS, mutation((folder / RANKS).read_bytes())):
        found = attempt(lambda: load_tokenizer(folder), DataError)
    assert isinstance(found, DataError) or found.fingerprint == sound.fingerprint


def sealed(record, ranks):
    """The record as if its tokenizer had been saved: with the sum of what it says."""
    if not isinstance(record, dict):
        return record
    names = ("kind", "pattern", "special_tokens", "unknown", "words")
    identity = {name: record[name] for name in names if name in record}
    try:
        vocabulary = format_ranks(parse_ranks(ranks)) if record.get("kind") == "bpe" else b""
        return record | {"sha256": fingerprint(identity, vocabulary)}
    except (DataError, TypeError, ValueError):  # a value that is no JSON, or cannot be sorted
        return record


patterns = st.builds(
    lambda pattern: Put(("pattern",), pattern),
    st.sampled_from([r"\p{L}", "x", "", ".", r"\s+", "(", "[", "(?i)a", "(a*)*b", r"\S+|\s", "a|"])
    | st.text("\\pLNsS+*?|()[]^ax1", max_size=8),
)


@given(kind=st.sampled_from(KINDS), mutation=trees | patterns, text=st.text(max_size=20))
@example("bpe", Put(("pattern",), r"\p{L}"), "")
@example("bpe", Put(("pattern",), "x"), "")
@example("bpe", Put(("pattern",), ""), "")
@example("bpe", Put(("pattern",), GPT2_PATTERN.replace(r"\p{N}", r"\p{Nd}")), "½")
@example("bpe", Put(("pattern",), r"[^q]+"), "q")
@example("bpe", Put(SPECIAL, {"": 265}), "")
@example("bpe", Put(SPECIAL, {"a": 10**400}), "")
@example("bpe", Put(SPECIAL, {"a": -1}), "")
@example("bpe", Put(SPECIAL, {"a": 2**32}), "")
@example("bpe", Put(SPECIAL, {"a": True}), "")
@example("bpe", Put(SPECIAL, {"\ud800": 265}), "")
@example("bpe", Put(("name",), Raw("1e999")), "")
@example("bpe", Put(("name",), "\ud800"), "")
@example("words", Put(("words", 0), "\ud800"), "")
@example("words", Put(("words", 0), ""), "")
@example("words", Put(("words",), []), "")
def test_a_sealed_tokenizer_loses_no_text(folders, tmp_path, kind, mutation, text):
    folder = folders / kind
    ranks = (folder / RANKS).read_bytes() if kind == "bpe" else b""
    content = mutation((folder / RECORD).read_bytes())
    with suppress(ValueError, RecursionError):
        content = json.dumps(sealed(json.loads(content), ranks)).encode()
    with replaced(folder / RECORD, content):
        check_round_trip(folder, tmp_path, text)


@given(mutation=cuts)
@example(Whole(b""))
@example(Whole(b"".join(b"%s %d\n" % (base64.b64encode(bytes([n])), n) for n in range(256))))
@example(Whole(b"IQ== 99999999999999999999999999\n"))
def test_sealed_ranks_lose_no_text(folders, tmp_path, mutation):
    folder = folders / "bpe"
    ranks = mutation((folder / RANKS).read_bytes())
    record = json.dumps(sealed(json.loads((folder / RECORD).read_bytes()), ranks)).encode()
    with replaced(folder / RANKS, ranks), replaced(folder / RECORD, record):
        check_round_trip(folder, tmp_path, "")


def check_round_trip(folder, tmp_path, text):
    """A tokenizer that is accepted gives back each text, ends, and can be saved and loaded."""
    found = attempt(lambda: load_tokenizer(folder), DataError)
    if isinstance(found, DataError):
        return
    for given_text in (TEXT, text):
        for special in (False, True):

            def there_and_back(given_text=given_text, special=special):
                return found.decode(found.encode(given_text, allow_special=special))

            back = attempt(there_and_back, DataError)
            # Words are lossy by nature; a text may be refused, but not cut.
            assert found.name == "words" or isinstance(back, DataError) or back == given_text
    shutil.rmtree(tmp_path / "again", ignore_errors=True)
    found.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").fingerprint == found.fingerprint


@given(spec=st.sampled_from([x for x in HOSTILE if isinstance(x, str)]) | st.text(max_size=30))
def test_a_name_is_a_tokenizer_or_refused(spec):
    attempt(lambda: load_tokenizer(spec), DataError)
