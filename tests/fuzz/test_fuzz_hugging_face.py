"""A Hugging Face folder of a GPT-2, damaged or hostile: a model that runs, or a refusal."""

import json
import struct
from contextlib import ExitStack

import numpy as np
import pytest
from harness import HOSTILE, Put, Raw, Whole, attempt, cuts, json_mutations, replaced, trees, wholes
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from jaxgpt.config import ModelConfig
from jaxgpt.errors import CheckpointError, JaxgptError
from jaxgpt.families.gpt2 import GPT2
from jaxgpt.finetuning.pretrained import load_pretrained
from jaxgpt.huggingface.files import INDEX, WEIGHTS, read_headers
from jaxgpt.huggingface.weights import load_gpt2, save_gpt2

SHAPE = ModelConfig(vocab_size=300, context_length=8, num_layers=1, num_heads=1, embed_dim=4)
TEXT = "Once upon a time a king's 17 ships set sail: café, 日本."
LONG = "a" * 5000


def make(folder, params):
    """A folder as the library transformers writes it, with a tokenizer.json of the library's."""
    save_gpt2(folder, SHAPE, params)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 9, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "GPT2TokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="module")
def folder(random_params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hugging_face") / "gpt2"
    make(folder, random_params(SHAPE))
    return folder


@pytest.fixture(scope="module")
def sharded(folder, tmp_path_factory):
    """The same with an index that names its one file."""
    shards = tmp_path_factory.mktemp("sharded")
    for path in folder.iterdir():
        if path.is_file():
            name = "model-00001-of-00001.safetensors" if path.name == WEIGHTS else path.name
            (shards / name).write_bytes(path.read_bytes())
    names = dict.fromkeys(read_headers(folder, GPT2), "model-00001-of-00001.safetensors")
    (shards / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return shards


def load(folder):
    """The model's parameters, which are finite."""
    _, params = load_gpt2(folder)
    assert np.isfinite(np.asarray(params["embed"]["tokens"])).all()
    return params


def header(mutation):
    """The mutation of a safetensors file's header, with the length that it then has."""

    def mutate(sound):
        (length,) = struct.unpack("<Q", sound[:8])
        changed = mutation(sound[8 : 8 + length])
        return struct.pack("<Q", len(changed)) + changed + sound[8 + length :]

    return mutate


tensors = ["transformer.wte.weight", "transformer.h.0.attn.c_attn.bias", "transformer.ln_f.bias"]
puts = st.builds(
    lambda name, key, value: Put((name, key), value),
    st.sampled_from(tensors),
    st.sampled_from(["dtype", "shape", "data_offsets"]),
    st.sampled_from([*HOSTILE, [0, 0], [-1, 4], [1 << 63, 4], [0, 4], [4, 0], [0, 1 << 62]])
    | st.sampled_from(["F16", "BF16", "F64", "I8", "F8_E5M2", "BOOL", "f32"]),
)


@given(mutation=cuts | wholes)
@example(Whole(b""))
@example(Whole(struct.pack("<Q", 1 << 62) + b"{}"))
def test_damaged_weights_are_read_or_refused(folder, mutation):
    with replaced(folder / WEIGHTS, mutation((folder / WEIGHTS).read_bytes())):
        attempt(lambda: load(folder), CheckpointError)


@given(mutation=json_mutations | puts)
@example(Put(("\x1b[2J",), {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}))
@example(Put(("__metadata__",), {"a": 1}))
@example(Put(("__metadata__",), {"\ud800": "a"}))
@example(Whole(b"[" * 100_000))
@example(Whole(b'{"__metadata__":' * 5000))
def test_a_hostile_header_is_read_or_refused(folder, mutation):
    content = header(mutation)((folder / WEIGHTS).read_bytes())
    with replaced(folder / WEIGHTS, content):
        attempt(lambda: load(folder), CheckpointError)


maps = st.builds(
    lambda name, value: Put(("weight_map", name), value),
    st.sampled_from([*tensors, "more"]),
    st.sampled_from(HOSTILE),
)


@given(mutation=json_mutations | maps)
@example(Put(("weight_map", "more"), "a\0.safetensors"))
@example(Put(("weight_map", "more"), "\ud800.safetensors"))
@example(Put(("weight_map", "more"), f"{LONG}.safetensors"))
@example(Put(("weight_map", "more"), "../x.safetensors"))
@example(Put(("weight_map", "more"), "\x1b[2J.safetensors"))
@example(Put(("weight_map", "more"), "x.bin"))
@example(Put(("weight_map",), []))
@example(Put(("weight_map",), {"a": ["x"]}))
@example(Whole(b"[" * 100_000))
def test_a_hostile_index_is_read_or_refused(sharded, mutation):
    with replaced(sharded / INDEX, mutation((sharded / INDEX).read_bytes())):
        attempt(lambda: load(sharded), CheckpointError)


def use(folder):
    """What generate.py takes from a folder: ids that the model has, and their text."""
    model = load_pretrained(folder)
    ids = model.tokenizer.encode(TEXT)
    assert all(0 <= token < model.config.vocab_size for token in ids)
    model.tokenizer.encode("<|endoftext|>", allow_special=True)
    text = model.tokenizer.decode(ids)
    # A normalizer changes texts by its nature, and a space may be asked for before each.
    normalizes = json.loads((folder / "tokenizer.json").read_bytes()).get("normalizer")
    assert isinstance(text, str) if normalizes else text.removeprefix(" ") == TEXT
    end = model.tokenizer.end_of_text
    assert end is None or 0 <= end < model.config.vocab_size


parts = ["added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model"]
pieces = st.builds(
    lambda name, value: Put((name,), value), st.sampled_from(parts), st.sampled_from(HOSTILE)
)
added = {
    **{"id": 290, "content": "<|user|>", "single_word": False, "lstrip": False, "rstrip": False},
    **{"normalized": False, "special": True},
}


@given(mutation=trees | pieces | cuts | wholes)
@example(Put(("added_tokens",), [added]))
@example(Put(("added_tokens",), [added | {"id": 10**400}]))
@example(Put(("added_tokens",), [added | {"id": 5000}]))
@example(Put(("added_tokens",), [added | {"content": ""}]))
@example(Put(("added_tokens",), [added | {"content": "\ud800"}]))
@example(Put(("pre_tokenizer",), {"type": "Split", "pattern": {"Regex": "(a*)*b("}}))
@example(Put(("pre_tokenizer",), None))
@example(Put(("normalizer",), {"type": "Replace", "pattern": {"String": ""}, "content": "a"}))
@example(Put(("model", "merges"), [["a"]]))
@example(Put(("model", "vocab", "a"), 10**400))
@example(Put(("model", "vocab", "a"), 5000))
@example(Put(("model", "vocab", "a"), Raw("1e999")))
@example(Put(("model", "type"), "Unigram"))
@example(Put(("model", "dropout"), Raw("1e999")))
@example(Whole(b"[" * 100_000))
@example(Whole(b"{}"))
def test_a_hostile_tokenizer_is_one_or_refused(folder, mutation):
    path = folder / "tokenizer.json"
    with replaced(path, mutation(path.read_bytes())):
        attempt(lambda: use(folder), JaxgptError)


FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json")


@given(changes=st.lists(st.tuples(st.sampled_from(FILES), json_mutations), min_size=1, max_size=2))
@example([("tokenizer_config.json", Put(("eos_token",), {"content": []}))])
@example([("tokenizer_config.json", Put(("eos_token",), "none"))])
@example([("tokenizer_config.json", Put(("add_prefix_space",), True))])
@example([("tokenizer_config.json", Put(("added_tokens_decoder",), {"x": 1}))])
@example([("tokenizer_config.json", Whole(b"[" * 100_000))])
@example([("generation_config.json", Put(("eos_token_id",), {"a": 1}))])
@example([("generation_config.json", Whole(b"[" * 100_000))])
@example([("config.json", Put(("eos_token_id",), 10**400))])
@example([("config.json", Put(("eos_token_id",), [0, 1]))])
@example([("config.json", Put(("eos_token_id",), 5000))])
def test_hostile_settings_beside_it_are_honoured_or_refused(folder, changes):
    with ExitStack() as stack:
        for name, mutation in changes:
            try:
                content = mutation((folder / name).read_bytes())
            except (ValueError, RecursionError):  # the one before left nothing to mutate
                continue
            stack.enter_context(replaced(folder / name, content))
        attempt(lambda: use(folder), JaxgptError)
