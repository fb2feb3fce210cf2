"""The tokenizer of a Hugging Face folder, against the library transformers: there and back."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GenerationConfig, GPT2Config, PreTrainedTokenizerFast

from jaxgpt.config import ModelConfig
from jaxgpt.errors import ConfigError, DataError
from jaxgpt.finetuning.pretrained import find_tokenizer, load_pretrained
from jaxgpt.finetuning.vocabulary import grow_vocabulary
from jaxgpt.generation.sampling import SamplingConfig
from jaxgpt.generation.text import generate_text
from jaxgpt.huggingface.weights import load_gpt2, save_gpt2
from jaxgpt.tokenization import deferred_tokenizer, huggingface_folder
from jaxgpt.tokenization import tokenizer as tokenizer_module
from jaxgpt.tokenization.bpe import train_bpe
from jaxgpt.tokenization.deferred_tokenizer import DeferredGPT2
from jaxgpt.tokenization.gpt2_vocabulary import MissingVocabularyError
from jaxgpt.tokenization.huggingface_folder import is_gpt2
from jaxgpt.tokenization.json_tokenizer import PROBE, JsonTokenizer
from jaxgpt.tokenization.tokenizer import ByteTokenizer, WordTokenizer, ends_of, load_tokenizer
from jaxgpt.tokenization.tokenizer_json import describe
from jaxgpt.training.checkpoint import load_model, save_model

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

TEXT = "The king's 12 ships sailed at dawn; the queen's did not. ÀÉ ßtraße 世界 🙂\n" * 9
MODEL = ModelConfig(vocab_size=320, context_length=16, num_layers=1, num_heads=2, embed_dim=8)
WORDS = ["<|endoftext|>", "<|im_end|>"]


def backend(size=300, prefix=False):
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    trained.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator([TEXT], trainer)
    return trained


@pytest.fixture
def folder(tmp_path, random_params):
    """A model of 320 ids whose tokenizer transformers has written, with its end at 301."""
    save_gpt2(tmp_path / "hf", MODEL, random_params(MODEL))
    trained = backend()
    trained.add_special_tokens(WORDS)
    PreTrainedTokenizerFast(
        tokenizer_object=trained, eos_token="<|im_end|>", bos_token="<|endoftext|>"
    ).save_pretrained(tmp_path / "hf")
    configure(tmp_path / "hf", eos_token_id=301, bos_token_id=300, pad_token_id=3)
    os.remove(tmp_path / "hf" / "generation_config.json")
    return tmp_path / "hf"


def configure(folder, name="config.json", **changes):
    path = folder / name
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(values | changes))


def their_ids(folder, text):
    return AutoTokenizer.from_pretrained(folder)(text)["input_ids"]


def test_a_folder_that_transformers_wrote(folder, tmp_path):
    model = load_pretrained(folder)
    tokenizer = model.tokenizer
    assert find_tokenizer(folder) == model.train_config.data.tokenizer == str(folder)
    assert (tokenizer.vocab_size, ends_of(tokenizer), tokenizer.end_of_text) == (302, (301,), 301)
    for text in (PROBE, TEXT):
        assert tokenizer.encode(text) == their_ids(folder, text)
    text = "the king<|im_end|><|endoftext|>"
    assert tokenizer.encode(text, allow_special=True) == their_ids(folder, text)
    save_model(tmp_path / "own", model)
    again = load_model(tmp_path / "own")
    assert again.tokenizer.fingerprint == tokenizer.fingerprint
    save_gpt2(tmp_path / "back", again.config, again.params, tokenizer=again.tokenizer)
    for name in ("config.json", "generation_config.json"):
        values = json.loads((tmp_path / "back" / name).read_text())
        assert [values[f"{x}_token_id"] for x in ("eos", "bos", "pad")] == [301, 300, 3]
    assert their_ids(tmp_path / "back", text + TEXT) == their_ids(folder, text + TEXT)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "back")
    assert (theirs.eos_token_id, theirs.bos_token_id, len(theirs)) == (301, 300, 302)
    assert GenerationConfig.from_pretrained(tmp_path / "back").eos_token_id == 301
    assert load_pretrained(tmp_path / "back").tokenizer.fingerprint == tokenizer.fingerprint
    # As somebody else has it, without what jaxgpt keeps for itself.
    for path in (tmp_path / "back" / "tokenizer").iterdir():
        path.unlink()
    (tmp_path / "back" / "tokenizer").rmdir()
    assert load_tokenizer(find_tokenizer(tmp_path / "back")).fingerprint == tokenizer.fingerprint


def biased(folder, token):
    """The model in the folder, which draws `token` always."""
    model = load_pretrained(folder)
    params = model.params
    scale = np.zeros_like(params["norm"]["scale"])
    table = np.array(params["embed"]["tokens"])
    table[token] = 9.0
    params["norm"] = {"scale": scale, "bias": np.ones_like(scale)}
    params["embed"] = params["embed"] | {"tokens": table}
    return replace(model, params=params)


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("eos", "drawn", "text"),
    [
        (301, 301, ""),
        (301, 300, "<|endoftext|>" * 3),
        ([300, 301], 300, ""),
        ([300, 301], 301, ""),
        ([258], 258, ""),
        ([258], 301, "<|im_end|>" * 3),
    ],
)
def test_a_text_ends_at_any_of_the_models_ends(folder, eos, drawn, text):
    configure(folder, eos_token_id=eos)
    greedy = {"max_new_tokens": 3, "sampling": SamplingConfig(temperature=0.0)}
    assert "".join(generate_text(biased(folder, drawn), "the", **greedy)) == text


def test_where_the_end_is_read(folder):
    configure(folder, "generation_config.json", eos_token_id=[300, 301])
    assert ends_of(load_tokenizer(folder)) == (301, 300)  # the tokenizer's own stands first
    configure(folder, "generation_config.json", eos_token_id=None)
    configure(folder, eos_token_id=300)
    assert ends_of(load_tokenizer(folder)) == (300,)
    configure(folder, eos_token_id=50256)  # which the model has no row for
    assert ends_of(load_tokenizer(folder)) == (301,)
    configure(folder, eos_token_id=None)
    configure(folder, "tokenizer_config.json", eos_token=None)
    assert ends_of(load_tokenizer(folder)) == (300,)  # <|endoftext|>
    for bad in ("301", [1.5], {}, True):
        configure(folder, eos_token_id=bad)
        with pytest.raises(DataError, match="it must be a number or a list of them"):
            load_tokenizer(folder)
    configure(folder, eos_token_id=[301, 310], pad_token_id=311)  # rows that no token has
    tokenizer = load_pretrained(folder).tokenizer
    assert (tokenizer.ends, tokenizer.padding) == ((301,), None)
    configure(folder, eos_token_id=310)
    with pytest.raises(DataError, match="eos_token_id is 310, which no token has"):
        load_tokenizer(folder)


def test_a_space_before_the_text(folder):
    values = json.loads((folder / "tokenizer.json").read_text())
    values["pre_tokenizer"]["add_prefix_space"] = True
    (folder / "tokenizer.json").write_text(json.dumps(values))
    configure(folder, "tokenizer_config.json", add_prefix_space=True)
    tokenizer = load_tokenizer(folder)
    assert (
        tokenizer.encode("the king")
        == their_ids(folder, "the king")
        == their_ids(folder, " the king")
    )
    assert tokenizer.decode(tokenizer.encode("the king")) == " the king"


@pytest.mark.parametrize("added", ["added_tokens.json", "tokenizer_config.json", "special tokens"])
def test_vocabulary_and_merges_with_added_tokens(tmp_path, added):
    """Older folders have no tokenizer.json, and name what was added in other files."""
    trained = backend()
    trained.model.save(str(tmp_path))
    configure(tmp_path, model_type="gpt2", vocab_size=320)
    flags = {"special": True, "lstrip": False, "rstrip": False, "single_word": False}
    flags |= {"normalized": False}
    tokens = {str(300 + i): {"content": word, **flags} for i, word in enumerate(WORDS)}
    if added != "tokenizer_config.json":
        configure(tmp_path, "added_tokens.json", **{word: 300 + i for i, word in enumerate(WORDS)})
    if added == "tokenizer_config.json":
        configure(tmp_path, added, added_tokens_decoder=tokens)
    if added == "special tokens":
        end = {"content": "<|im_end|>", **flags}
        configure(tmp_path, "special_tokens_map.json", eos_token=end, unk_token="<|endoftext|>")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.vocab_size == 302
    assert tokenizer.end_of_text == (301 if added == "special tokens" else 300)
    assert tokenizer.encode(TEXT) == trained.encode(TEXT).ids
    text = "the king<|im_end|>"
    assert tokenizer.encode(text, allow_special=True)[-1] == 301
    if added != "added_tokens.json":  # which does not say that they are special
        assert 301 not in tokenizer.encode(text)


def write(name, content):
    def change(folder):
        (folder / name).write_text(content)

    return change


def alone(name):
    """The folder with a vocabulary of another kind in its tokenizer's place."""

    def change(folder):
        for path in folder.glob("*token*"):
            path.unlink()
        (folder / name).write_bytes(b"\x0a\x0b<unk>")
        configure(folder, vocab_size=60000)

    return change


def merges(folder):
    alone("merges.txt")(folder)
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")


def eos_template(folder):
    values = json.loads((folder / "tokenizer.json").read_text())
    values["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {
            "<|endoftext|>": {"id": "<|endoftext|>", "ids": [300], "tokens": ["<|endoftext|>"]}
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(values))


CONFIG = "tokenizer_config.json"
REFUSED = [
    (eos_template, "its post_processor, TemplateProcessing, adds 1 token"),
    (alone("spiece.model"), "spiece.model is the vocabulary, and it is not GPT-2's"),
    (alone("tokenizer.model"), "tokenizer.model is the vocabulary, and it is not GPT-2's"),
    (alone("vocab.txt"), "vocab.txt is the vocabulary, and it is not GPT-2's"),
    (merges, "merges.txt is the vocabulary, and it is not GPT-2's"),
    (write("tokenizer.json", "{"), "tokenizer.json is not JSON"),
    (
        write("tokenizer.json", "[]"),
        "tokenizer.json holds a list, not a mapping; save the tokenizer again",
    ),
    (write("tokenizer.json", "[" * 10**5), "nested too deeply"),
    (write(CONFIG, "["), "tokenizer_config.json is not JSON"),
    (write(CONFIG, "[]"), "tokenizer_config.json holds a list"),
    (write(CONFIG, '{"add_bos_token": true}'), None),  # it names no token to add
    (write(CONFIG, '{"add_eos_token": true}'), None),  # beside a tokenizer.json it is not heeded
    (write(CONFIG, '{"eos_token": "<none>"}'), "has eos_token '<none>', which no file of the"),
    (write(CONFIG, '{"eos_token": 3}'), "eos_token is 3, which is no token"),
    (write(CONFIG, '{"extra_special_tokens": 3}'), "extra_special_tokens is 3; it must be a list"),
    (write(CONFIG, '{"added_tokens_decoder": []}'), None),
    (write(CONFIG, '{"added_tokens_decoder": [3]}'), "added_tokens_decoder is no mapping"),
    (write(CONFIG, '{"added_tokens_decoder": {"x": {}}}'), "added_tokens_decoder has 'x'"),
    (write(CONFIG, '{"added_tokens_decoder": {"9": "a"}}'), "added_tokens_decoder has '9'"),
    (
        write(CONFIG, '{"added_tokens_decoder": {"9": {"content": "<a>"}}}'),
        "gives '<a>' the id 9",
    ),
    (write("added_tokens.json", '{"<|im_end|>": 305}'), "gives '<|im_end|>' the id 305, but in"),
    (write("added_tokens.json", '{"<|pad|>": 301}'), "gives '<|pad|>' the id 301, but in"),
    (write("added_tokens.json", '{"<|pad|>": 310}'), "the added token '<|pad|>' has id 310, but"),
    (write("added_tokens.json", '{"<|pad|>": "302"}'), "it must be a number"),
    (write("special_tokens_map.json", '{"pad_token": "<|pad|>"}'), "has pad_token '<|pad|>', whi"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_is_refused_by_name(folder, change, message, capfd):
    change(folder)
    if message is None:
        load_pretrained(folder)
        return
    with pytest.raises(DataError) as caught:
        load_pretrained(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_more_ids_than_the_model_has_rows(folder):
    configure(folder, "added_tokens.json", **{f"<|{i}|>": 302 + i for i in range(30)})
    with pytest.raises(ConfigError, match="has 332 ids, but the model in"):
        load_pretrained(folder)


def test_new_special_tokens_take_only_rows_that_no_token_has(folder):
    model = load_pretrained(folder)
    grown = grow_vocabulary(model, ["<|user|>", "<|im_end|>"])
    assert grown.tokenizer.special_tokens["<|user|>"] == 302
    old, new = (np.asarray(m.params["embed"]["tokens"]) for m in (model, grown))
    changed = np.flatnonzero((old != new).any(axis=1))
    assert changed.tolist() == [302]


PATTERN = r"\p{N}{1,3}|\p{L}++|\s+|[^\s\p{L}\p{N}]+"
MADE = {
    "gpt2": lambda: load_tokenizer("gpt2"),
    "bytes": ByteTokenizer,
    "bpe": lambda: train_bpe([TEXT], 300),
    "bpe+1": lambda: train_bpe([TEXT], 300).with_special_tokens(["é☃"]),
    "pattern": lambda: train_bpe([TEXT], 290, pattern=PATTERN),
    "json": lambda: JsonTokenizer(json.loads(backend().to_str())),
}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[pytest.mark.whole_run] if kind == "gpt2" else []) for kind in MADE],
)
def test_what_is_written_for_transformers_gives_the_same_ids(kind, tmp_path, random_params):
    tokenizer = MADE[kind]()
    config = replace(MODEL, vocab_size=max(320, tokenizer.vocab_size))
    save_gpt2(tmp_path / "hf", config, random_params(config), tokenizer=tokenizer)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert theirs.eos_token_id == tokenizer.end_of_text
    assert len(theirs) == tokenizer.vocab_size
    for text in (PROBE, TEXT, "\n".join(sorted(dir(np)))):
        ids = tokenizer.encode(text)
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids) == text
    for name in getattr(tokenizer, "special_tokens", {}):
        ids = tokenizer.encode(f"a {name} b", allow_special=True)
        assert theirs(f"a {name} b")["input_ids"] == ids
    assert GPT2Config.from_pretrained(tmp_path / "hf").eos_token_id == tokenizer.end_of_text
    back = load_pretrained(tmp_path / "hf").tokenizer
    assert back.fingerprint == tokenizer.fingerprint
    read = load_tokenizer(tmp_path / "hf")
    assert read.encode(TEXT) == tokenizer.encode(TEXT)
    assert (read.name == "gpt2") == (kind == "gpt2")
    assert (load_tokenizer(tmp_path / "hf" / "tokenizer.json").name == "gpt2") == (kind == "gpt2")


@pytest.mark.parametrize("kind", ["words", "clash"])
def test_what_transformers_has_no_words_for_is_said(kind, tmp_path, random_params):
    bpe = train_bpe([TEXT], 300)
    tokenizer = WordTokenizer(["a"]) if kind == "words" else bpe.with_special_tokens(["q"])
    with pytest.warns(UserWarning, match="so the folder has no tokenizer for transformers"):
        save_gpt2(tmp_path / "hf", MODEL, random_params(MODEL), tokenizer=tokenizer)
    assert not (tmp_path / "hf" / "tokenizer.json").exists()
    assert load_pretrained(tmp_path / "hf").tokenizer.fingerprint == tokenizer.fingerprint


@pytest.fixture(scope="module")
def gpt2():
    """GPT-2's tokenizer, and how Hugging Face describes it."""
    tokenizer = load_tokenizer("gpt2")
    return tokenizer, describe(tokenizer)


@pytest.mark.slow
def test_gpt2_is_known_by_all_that_decides_on_ids(gpt2):
    _, gpt2 = gpt2
    assert is_gpt2(gpt2)
    assert is_gpt2(gpt2 | {"added_tokens": [], "post_processor": None})
    model, step = gpt2["model"], gpt2["pre_tokenizer"]
    assert is_gpt2(gpt2 | {"model": model | {"unk_token": "<|endoftext|>", "dropout": None}})
    end = gpt2["added_tokens"][0]
    others = [
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": step | {"add_prefix_space": True}},
        {"pre_tokenizer": step | {"use_regex": False}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [step]}},
        {"pre_tokenizer": [step]},
        {"post_processor": {"type": "TemplateProcessing"}},
        {"added_tokens": [end, end | {"id": 50257, "content": "<|pad|>"}]},
        {"added_tokens": [end | {"lstrip": True}]},
        {"added_tokens": [end | {"special": False}]},
        {"model": model | {"merges": model["merges"][:-1]}},
        {"model": model | {"vocab": model["vocab"] | {"<|pad|>": 50257}}},
        {"model": model | {"dropout": 0.1}},
    ]
    for other in others:
        assert not is_gpt2(gpt2 | other)


@pytest.mark.slow
def test_gpt2s_tokenizer_with_what_a_folder_adds(tmp_path, gpt2, monkeypatch):
    """A folder without a tokenizer's files has GPT-2's, which its other files may change."""
    gpt2, description = gpt2
    monkeypatch.setattr(huggingface_folder, "_gpt2_description", lambda: description)
    configure(tmp_path, model_type="gpt2", vocab_size=50257, eos_token_id=50256)
    assert load_tokenizer(tmp_path).fingerprint == gpt2.fingerprint
    assert find_tokenizer(tmp_path) == "gpt2"
    configure(tmp_path, eos_token_id=[50256, 198])
    tokenizer = load_tokenizer(tmp_path)
    assert (ends_of(tokenizer), tokenizer.vocab_size) == ((50256, 198), 50257)
    assert tokenizer.encode(TEXT) == gpt2.encode(TEXT)
    configure(tmp_path, vocab_size=50259, eos_token_id=50258)
    with pytest.raises(DataError, match="eos_token_id is 50258, which no token has; the token"):
        load_tokenizer(tmp_path)
    configure(tmp_path, "added_tokens.json", **{"<|user|>": 50257, "<|end|>": 50258})
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.end_of_text, tokenizer.vocab_size) == (50258, 50259)
    assert tokenizer.encode("a <|end|>", allow_special=True)[-1] == 50258


@pytest.fixture
def nowhere(gpt2, monkeypatch):
    """A machine without GPT-2's vocabulary, and without a network."""

    def missing():
        raise MissingVocabularyError("GPT-2's vocabulary is not on this machine")

    huggingface_folder._gpt2_description.cache_clear()
    for module in (huggingface_folder, deferred_tokenizer, tokenizer_module):
        monkeypatch.setattr(module, "gpt2_ranks", missing)


@pytest.mark.slow_but_first
@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("names", [["vocab.json", "merges.txt"], ["merges.txt"]])
def test_a_folder_with_gpt2s_own_files_needs_no_others(names, tmp_path, gpt2):
    gpt2, description = gpt2
    model = description["model"]
    contents = {
        "vocab.json": json.dumps(model["vocab"]),
        "merges.txt": "\n".join(["#version: 0.2", *map(" ".join, model["merges"]), ""]),
    }
    configure(tmp_path, model_type="gpt2", vocab_size=50257, eos_token_id=50256)
    for name in names:
        (tmp_path / name).write_text(contents[name])
    assert load_tokenizer(tmp_path).fingerprint == gpt2.fingerprint


@pytest.mark.usefixtures("nowhere")
def test_weights_alone_are_converted_without_a_vocabulary(
    tmp_path, gpt2, monkeypatch, random_params
):
    config = replace(MODEL, vocab_size=50257)
    params = random_params(config)
    save_gpt2(tmp_path / "hf", config, params)
    model = load_pretrained(tmp_path / "hf")
    save_model(tmp_path / "own", model)
    with pytest.warns(UserWarning, match=r"is not on this machine; so the folder has no tokenizer"):
        save_gpt2(
            tmp_path / "back", config, params, tokenizer=load_model(tmp_path / "own").tokenizer
        )
    for tokenizer in (model.tokenizer, load_tokenizer(tmp_path / "back" / "tokenizer")):
        assert isinstance(tokenizer, DeferredGPT2)
        for use in (lambda t=tokenizer: t.encode("a"), lambda t=tokenizer: t.decode([1])):
            with pytest.raises(DataError, match="not on this machine"):
                use()
    # Once it is there, it is the tokenizer that was meant.
    monkeypatch.setattr(deferred_tokenizer, "gpt2_ranks", lambda: gpt2[0].ranks)
    named = DeferredGPT2()
    found = load_model(tmp_path / "own").tokenizer
    assert found.encode(TEXT) == named.encode(TEXT) == gpt2[0].encode(TEXT)
    for name in ("name", "vocab_size", "end_of_text", "fingerprint"):
        assert getattr(named, name) == getattr(found, name) == getattr(gpt2[0], name)


@pytest.mark.usefixtures("nowhere")
def test_other_ends_than_gpt2s_need_the_vocabulary(tmp_path):
    configure(tmp_path, model_type="gpt2", vocab_size=50257, eos_token_id=[50256, 198])
    with pytest.raises(DataError, match="not on this machine"):
        load_tokenizer(tmp_path)


def test_the_tokenizer_of_a_folder_comes_from_its_own_files_first(folder, random_params):
    ByteTokenizer().save(folder / "tokenizer")
    assert find_tokenizer(folder) == str(folder / "tokenizer")
    assert load_pretrained(folder).tokenizer.name == "bytes"
    bare = folder / "bare"
    bare.mkdir()
    configure(bare, model_type="gpt2", vocab_size=50256)
    with pytest.raises(DataError, match="bare has no tokenizer; name one by --tokenizer, such as"):
        find_tokenizer(Path(bare))
    assert load_gpt2(folder)[0] == MODEL
