"""The tokenizers of today's families: the ids of transformers, and the same files back."""

import json

import numpy as np
import pytest
from tokenizer_kinds import KINDS, TEXTS, write
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from jaxgpt.data.encode import encode_documents
from jaxgpt.data.text import Document
from jaxgpt.errors import DataError
from jaxgpt.finetuning.instructions import encode_prompt
from jaxgpt.finetuning.templates import TEMPLATES, Turn
from jaxgpt.generation.text import prompt_tokens
from jaxgpt.tokenization.json_tokenizer import PROBE
from jaxgpt.tokenization.tokenizer import ends_of, load_tokenizer, prefix_of
from jaxgpt.tokenization.tokenizer_json import write_for_transformers

FIRST = {"llama": "<|begin_of_text|>", "gemma": "<bos>", "mistral": "<s>", "metaspace": "<s>"}
PREFIXED = ("mistral", "metaspace")  # with a space before a text


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def folder(kind, tmp_path):
    return write(tmp_path / "folder", kind)


def random_texts(special, seed, number=150):
    random = np.random.default_rng(seed)
    signs = [*"aeiK'19 \n\t.,!-é世🙂\u0301\0<>|[]", "the", " king", "  ", "\r\n", "\n\n", "<b>"]
    return ["".join(random.choice([*signs, *special], 9)) for _ in range(number)]


def test_ids_are_those_of_transformers(kind, folder, tmp_path):
    tokenizer, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    first = [theirs.convert_tokens_to_ids(FIRST[kind])] if kind in FIRST else []
    assert prefix_of(tokenizer) == tuple(first)
    assert len(theirs) == tokenizer.vocab_size
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert (again.fingerprint, prefix_of(again)) == (tokenizer.fingerprint, tuple(first))
    special = list(tokenizer.special_tokens)
    for text in [PROBE, *TEXTS, *random_texts(special, 0)]:
        ids = again.encode(text, allow_special=True)
        assert [*first, *ids] == theirs(text)["input_ids"]
        assert ids == theirs(text, add_special_tokens=False)["input_ids"]
        ids = again.encode(text)
        assert ids == theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert not set(ids) & set(tokenizer.special_tokens.values())


@pytest.mark.slow_but_first
def test_a_text_comes_back(kind, folder):
    tokenizer = load_tokenizer(folder)
    for text in [PROBE, *TEXTS, *random_texts(tokenizer.special_tokens, 1)]:
        ids = tokenizer.encode(text)
        normal = Tokenizer.from_file(str(folder / "tokenizer.json")).normalizer
        if kind == "qwen":
            text = normal.normalize_str(text)
        elif text and kind in PREFIXED and (kind == "mistral" or not text.startswith(" ")):
            text = " " + text
        assert tokenizer.decode(ids) == text
        assert b"".join(tokenizer.decode_bytes([token]) for token in ids) == text.encode()


def test_files_are_kept_byte_for_byte(folder, tmp_path):
    (folder / "special_tokens_map.json").write_text("{ }\n")
    (folder / "chat_template.jinja").write_bytes("{{ messages }}\r\n é".encode())
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    tokenizer = load_tokenizer(folder)
    tokenizer.save(tmp_path / "saved")
    (tmp_path / "out").mkdir()
    write_for_transformers(tmp_path / "out", load_tokenizer(tmp_path / "saved"), 128)
    for name in (*names, "chat_template.jinja"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs(TEXTS[0]) == AutoTokenizer.from_pretrained(folder)(TEXTS[0])


def test_a_grown_tokenizer_is_described_anew(kind, folder, tmp_path):
    tokenizer = load_tokenizer(folder).with_special_tokens(["<|new|>"])
    tokenizer.save(tmp_path / "saved")
    (tmp_path / "out").mkdir()
    write_for_transformers(tmp_path / "out", load_tokenizer(tmp_path / "saved"), 128)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = f"the <|new|>{TEXTS[0]}"
    ids = [*prefix_of(tokenizer), *tokenizer.encode(text, allow_special=True)]
    assert theirs(text)["input_ids"] == ids
    assert tokenizer.special_tokens["<|new|>"] in ids


def test_without_a_tokenizer_json_the_settings_say_what_stands_before_a_text(tmp_path):
    folder = write(tmp_path / "folder", "olmo", add_bos_token=True)
    values = json.loads((folder / "tokenizer.json").read_text())
    added = {token["content"]: token["id"] for token in values["added_tokens"]}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    (folder / "vocab.json").write_text(json.dumps(values["model"]["vocab"]))
    merges = "\n".join(map(" ".join, values["model"]["merges"]))
    (folder / "merges.txt").write_text(merges)
    (folder / "tokenizer.json").unlink()
    tokenizer = load_tokenizer(folder)
    assert prefix_of(tokenizer) == (added["<|endoftext|>"],)
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    (tmp_path / "out").mkdir()
    write_for_transformers(tmp_path / "out", again, 128)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in ("the king", *TEXTS):
        assert theirs(text)["input_ids"] == [*prefix_of(again), *again.encode(text)]


@pytest.mark.parametrize(
    "changes",
    [
        {"add_bos_token": True},
        {"add_bos_token": False},
        {"add_eos_token": False},
        {"add_bos_token": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["metaspace", "olmo"], indirect=True)
def test_what_stands_before_a_text_is_what_transformers_puts_there(kind, changes, tmp_path):
    folder = write(tmp_path / "folder", kind, **changes)
    tokenizer, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    for text in ("", "the king"):
        assert [*prefix_of(tokenizer), *tokenizer.encode(text)] == theirs(text)["input_ids"]


def test_documents_prompts_and_templates_begin_once(kind, folder):
    tokenizer = load_tokenizer(folder)
    first = list(prefix_of(tokenizer))
    assert prompt_tokens(tokenizer, "the king") == [*first, *tokenizer.encode("the king")]
    assert prompt_tokens(tokenizer, "") == (first or [tokenizer.end_of_text])
    one, other = "the king", "the queen"
    pieces = [Document("", False), Document(one, False), Document(" went"), Document(other)]
    end = tokenizer.end_of_text

    def ids_of(end_of_text):
        split = encode_documents(pieces, tokenizer, end_of_text=end_of_text)
        return split.read(0, len(split)).tolist()

    told = [*tokenizer.encode(one), *tokenizer.encode(" went"), end]
    assert ids_of(True) == [*first, *told, *first, *tokenizer.encode(other), end]
    assert ids_of(False) == [*first, *tokenizer.encode("the king wentthe queen")]
    assert len(encode_documents([], tokenizer, end_of_text=False)) == 0
    prompt = encode_prompt([Turn("user", "Who?")], TEMPLATES["alpaca"], tokenizer)
    assert prompt[: len(first)] == first
    assert not set(first) & set(prompt[len(first) :])


def test_any_of_the_ends_stops(kind, folder):
    tokenizer = load_tokenizer(folder)
    names = [tokenizer.special_tokens[name] for name in KINDS[kind].ends]
    assert sorted(ends_of(tokenizer)) == sorted(names)
    assert tokenizer.end_of_text == tokenizer.special_tokens[KINDS[kind].config["eos_token"]]


def test_special_tokens_that_the_model_has_no_row_for(tmp_path):
    """As an image's in Gemma's smallest models, which read text alone."""
    folder = write(tmp_path / "folder", "gemma")
    values = json.loads((folder / "tokenizer.json").read_text())
    size = max(token["id"] for token in values["added_tokens"]) + 1
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    values["added_tokens"].append({"id": size, "content": "<image>", "special": True, **flags})
    (folder / "tokenizer.json").write_text(json.dumps(values))
    assert load_tokenizer(folder).vocab_size == size
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"text_config": config}))
    assert load_tokenizer(folder).vocab_size == size
    (folder / "config.json").unlink()
    assert load_tokenizer(folder).vocab_size == size + 1


def test_a_vocabulary_of_characters_without_all_bytes(tmp_path):
    folder = write(tmp_path / "folder", "gemma")
    values = json.loads((folder / "tokenizer.json").read_text())
    del values["model"]["vocab"]["<0x71>"]
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="no token for byte 0x71"):
        load_tokenizer(folder)
    values["model"]["byte_fallback"] = False
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="without ByteLevel, and its model has no byte_fallback"):
        load_tokenizer(folder)
