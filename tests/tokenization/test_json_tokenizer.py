"""Tokenizers of Hugging Face's, whose ids are the library's own, and what is refused of them."""

import json

import numpy as np
import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    processors,
    trainers,
)
from tokenizers import pre_tokenizers as pre

from jaxgpt.errors import DataError
from jaxgpt.tokenization.json_tokenizer import PROBE, JsonTokenizer
from jaxgpt.tokenization.tokenizer import load_tokenizer

TEXTS = ["The king's 12 ships sailed at dawn; the queen's did not. ÀÉ ßtraße ΣΑΣ 世界 🙂\n" * 9]
LEVEL = pre.ByteLevel(add_prefix_space=False)


def train(before=LEVEL, normalizer=None, size=300, added=("<|endoftext|>",)):
    """A byte-level BPE of the library, with `added` special tokens at its end."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = before, decoders.ByteLevel()
    if normalizer is not None:
        backend.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=sorted(pre.ByteLevel.alphabet()), show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.add_special_tokens(list(added))
    return backend


def description(backend):
    return json.loads(backend.to_str())


def random_texts(seed, number=200):
    """Short texts that put everything beside everything."""
    random = np.random.default_rng(seed)
    signs = [*"aeiK'19 \n\t.,!-é世🙂\u0301\0", "the", " king", "<|endoftext|>", "'s", "  ", "\r\n"]
    return ["".join(random.choice(signs, random.integers(1, 12))) for _ in range(number)]


SPLIT = pre.Sequence(
    [
        pre.Split(Regex(r"\p{N}{1,3}|\p{L}+|\s+|[^\s\p{L}\p{N}]+"), "isolated"),
        pre.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)
KINDS = {
    "plain": {},
    "prefix": {"before": pre.ByteLevel(add_prefix_space=True)},
    "no pattern": {"before": pre.ByteLevel(add_prefix_space=False, use_regex=False)},
    "own pattern": {"before": SPLIT},
    "digits": {"before": pre.Sequence([pre.Digits(individual_digits=True), LEVEL])},
    "NFC": {"normalizer": normalizers.NFC()},
    "lowercase": {"normalizer": normalizers.Sequence([normalizers.Lowercase()])},
}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_the_librarys_own(kind, tmp_path):
    backend = train(**KINDS[kind])
    tokenizer = JsonTokenizer(description(backend), ends=[300])
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (301, 300)
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert isinstance(again, JsonTokenizer)
    assert (again.fingerprint, again.ends) == (tokenizer.fingerprint, (300,))
    for text in [PROBE, *TEXTS, *random_texts(0)]:
        special = backend.encode(text, add_special_tokens=False).ids
        assert again.encode(text, allow_special=True) == special
        backend.encode_special_tokens = True
        ids = backend.encode(text, add_special_tokens=False).ids
        backend.encode_special_tokens = False
        assert again.encode(text) == ids
        assert 300 not in ids
        normal = backend.normalizer.normalize_str(text) if backend.normalizer else text
        spaced = " " * (kind == "prefix" and text[:1] not in ("", " ")) + normal
        assert again.decode_bytes(ids) == spaced.encode()


def test_bytes_of_parts_are_the_parts_of_the_bytes():
    tokenizer = JsonTokenizer(description(train()))
    ids = tokenizer.encode("ñ世🙂")
    assert b"".join(tokenizer.decode_bytes([token]) for token in ids) == "ñ世🙂".encode()
    assert tokenizer.decode(ids[:1]) == "\ufffd"


def test_added_words_are_found_in_any_text_and_special_ones_only_if_allowed():
    backend = train(added=("<|endoftext|>", "<|im_end|>"))
    backend.add_tokens(["Silverton", AddedToken("é☃", normalized=False)])
    tokenizer = JsonTokenizer(description(backend), ends=[301, 300])
    assert tokenizer.special_tokens == {"<|endoftext|>": 300, "<|im_end|>": 301}
    ids = tokenizer.encode("in Silverton é☃<|im_end|>")
    assert 302 in ids
    assert 303 in ids
    assert 301 not in ids
    assert tokenizer.encode("<|im_end|>", allow_special=True) == [301]
    assert tokenizer.decode(ids) == "in Silverton é☃<|im_end|>"
    assert tokenizer.decode_bytes([303]) == "é☃".encode()


def test_more_special_tokens_follow_the_others():
    tokenizer = JsonTokenizer(description(train()), ends=[300])
    grown = tokenizer.with_special_tokens(["<|user|>", "<|endoftext|>", "<|user|>", "<|bot|>"])
    assert (grown.vocab_size, grown.ends) == (303, (300,))
    assert grown.encode("<|user|>x<|bot|>", allow_special=True)[::2] == [301, 302]
    assert 301 not in grown.encode("<|user|>")
    assert grown.encode(PROBE) == tokenizer.encode(PROBE)
    assert grown.fingerprint != tokenizer.fingerprint
    for bad in ("", "\ud800"):
        with pytest.raises(DataError):
            tokenizer.with_special_tokens([bad])


def test_a_word_becomes_a_special_token_with_its_id():
    backend = train()
    backend.add_tokens(["<|user|>"])
    grown = JsonTokenizer(description(backend)).with_special_tokens(["<|user|>"])
    assert (grown.vocab_size, grown.special_tokens["<|user|>"]) == (302, 301)


def test_what_is_no_matter_is_not_in_the_fingerprint():
    plain = description(train())
    tokenizer = JsonTokenizer(plain)
    backend = train()
    backend.enable_truncation(2)
    backend.enable_padding(length=7)
    other = description(backend)
    other["model"]["merges"] = [" ".join(merge) for merge in other["model"]["merges"]]
    assert JsonTokenizer(other).fingerprint == tokenizer.fingerprint
    assert JsonTokenizer(other).encode("the king") == tokenizer.encode("the king")
    for change in ({"normalizer": {"type": "NFC"}}, {"added_tokens": []}):
        assert JsonTokenizer(plain | change).fingerprint != tokenizer.fingerprint
    assert JsonTokenizer(plain, ends=[300]).fingerprint != tokenizer.fingerprint


def eos(backend):
    backend.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 300)]
    )


def removing(backend):
    backend.pre_tokenizer = pre.Sequence([pre.Split(Regex(r"\s"), "removed"), LEVEL])


def change_model(**changes):
    def change(values):
        values["model"] |= changes

    return change


def without_byte(values):
    del values["model"]["vocab"]["q"]


def same_id_twice(values):
    values["model"]["vocab"]["Ġ"] = 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (eos, "its post_processor, TemplateProcessing, adds 1 token"),
        (removing, "does not give a text back"),
        (
            lambda values: values.update(model={"type": "Unigram", "vocab": []}),
            "is 'Unigram'",
        ),
        (lambda values: values.update(model={"type": "WordPiece", "vocab": {}}), "'WordPiece'"),
        (lambda values: values.update(pre_tokenizer={"type": "Whitespace"}), "is 'Whitespace', w"),
        (lambda values: values.update(pre_tokenizer=None), "pre_tokenizer is None"),
        (lambda values: values.update(pre_tokenizer=[{"type": "ByteLevel"}]), "refuses it"),
        (change_model(dropout=0.1), "its model has dropout 0.1"),
        (change_model(continuing_subword_prefix="##"), "has continuing_subword_prefix '##'"),
        (change_model(end_of_word_suffix="</w>"), "has end_of_word_suffix '</w>'"),
        (change_model(vocab=[]), "describes no tokenizer"),
        (change_model(vocab={"a": "0"}), "describes no tokenizer"),
        (change_model(merges=3), "describes no tokenizer"),
        (change_model(merges=[["q", "qqq"]]), "the library tokenizers refuses it"),
        (without_byte, "no token for byte 0x71"),
        (same_id_twice, "gives two tokens one id"),
        (
            lambda values: values.update(normalizer={"type": "Loud"}),
            "the library tokenizers refuse",
        ),
        (
            lambda values: values.update(added_tokens=[{"id": 400, "content": "<a>"}]),
            "has id 400",
        ),
        (lambda values: values.update(added_tokens=[{"id": 0, "content": "<a>"}]), "has id 0, but"),
        (lambda values: values.update(added_tokens=[{"id": 300, "content": ""}]), "added token ''"),
        (lambda values: values.update(added_tokens=[{"content": "<a>"}]), "describes no tokenizer"),
        (lambda values: values.update(added_tokens=3), "describes no tokenizer"),
        (lambda values: values.clear(), "describes no tokenizer"),
    ],
)
def test_what_is_refused(change, message, capfd):
    backend = train()
    if change in (eos, removing):
        change(backend)
    values = description(backend)
    if change not in (eos, removing):
        change(values)
    with pytest.raises(DataError, match=message):
        JsonTokenizer(values, source="x/tokenizer.json")
    assert capfd.readouterr() == ("", "")


def test_an_end_that_no_token_has():
    with pytest.raises(DataError, match="eos_token_id is 301, which no token has"):
        JsonTokenizer(description(train()), ends=[300, 301])
    with pytest.raises(DataError, match="bos_token_id is 999, which no token has"):
        JsonTokenizer(description(train()), begin_of_text=999)


def test_ids_and_texts_that_it_has_none_for():
    tokenizer = JsonTokenizer(description(train()))
    with pytest.raises(DataError, match=r"id 301 at position 1 is outside"):
        tokenizer.decode([0, 301])
    with pytest.raises(DataError, match="lone surrogate"):
        tokenizer.encode("\ud800")


@pytest.mark.parametrize(
    "change",
    [
        {"eos_token_id": [3]},
        {"eos_token_id": 300},
        {"eos_token_id": ["300"]},
        {"bos_token_id": 1},
        {"pad_token_id": "x"},
        {"sha256": None},
    ],
)
def test_a_record_that_was_changed(tmp_path, change):
    JsonTokenizer(description(train()), ends=[300]).save(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=r"is not what was saved|has no ids of its tokens"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"add_prefix_space": false', '"add_prefix_space": true'),
        ('["Ġ", "the"]', '["Ġt", "he"]'),
        ('"special": true', '"special": false'),
        ('"use_regex": true', '"use_regex": false'),
        ("{", ""),
    ],
)
def test_a_file_that_was_changed(tmp_path, old, new):
    JsonTokenizer(description(train()), ends=[300]).save(tmp_path)
    path = tmp_path / "huggingface.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError):
        load_tokenizer(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"huggingface\.json cannot be read"):
        load_tokenizer(tmp_path)
