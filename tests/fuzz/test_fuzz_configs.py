"""Files of settings, of jaxgpt and of Hugging Face: a config that holds, or a refusal."""

import json

import pytest
from harness import (
    HOSTILE,
    Put,
    Raw,
    Whole,
    attempt,
    cuts,
    json_mutations,
    to_json,
    trees,
    wholes,
)
from hypothesis import example, given
from hypothesis import strategies as st

from jaxgpt.config import ModelConfig
from jaxgpt.config_file import from_dict, load_config, to_dict
from jaxgpt.errors import CheckpointError, ConfigError, ResourceError
from jaxgpt.families import gpt2
from jaxgpt.families.known import FAMILIES, read_family
from jaxgpt.huggingface.config import read_huggingface_config, to_config, token_ids
from jaxgpt.model.parameters import count_parameters
from jaxgpt.presets import get_preset
from jaxgpt.training.memory import check_memory

SETTINGS = to_dict(get_preset("tiny"))
GPT2 = to_config(gpt2.GPT2, ModelConfig(), "float32", token_ids(None))
BIG = 10**400
IN_SECTIONS = [
    ("optimizer", "learning_rate"),
    ("optimizer", "epsilon"),
    ("optimizer", "weight_decay"),
    ("optimizer", "gradient_clip"),
    ("model", "dropout"),
    ("model", "norm_epsilon"),
    ("model", "num_layers"),
    ("model", "vocab_size"),
    ("model", "context_length"),
    ("model", "embed_dim"),
    ("data", "validation_fraction"),
    ("data", "stories_bytes"),
    ("data", "tokenizer"),
    ("data", "data"),
]
puts = st.builds(Put, st.sampled_from(IN_SECTIONS), st.sampled_from(HOSTILE))


def to_toml(tree):
    """The tree as TOML, as far as it is of sections and values."""
    if not isinstance(tree, dict):
        return to_json(tree)
    lines = [
        f"{json.dumps(name)} = {to_json(value)}"
        for name, value in tree.items()
        if not isinstance(value, dict)
    ]
    for name, section in tree.items():
        if isinstance(section, dict):
            lines += [f"[{json.dumps(name)}]", *(f"{k} = {to_json(v)}" for k, v in section.items())]
    return "\n".join(lines).replace("Infinity", "inf").replace("NaN", "nan")


def load(path, content):
    """A config that can be counted, written and read again."""
    path.write_bytes(content)

    def parse():
        config = load_config(path)
        count_parameters(config.model)
        check_memory(config.model)
        return config

    config = attempt(parse, ConfigError, ResourceError)
    if isinstance(config, Exception):
        return
    again = json.loads(json.dumps(to_dict(config), allow_nan=False))
    assert from_dict(get_preset("tiny"), again) == config


@given(mutation=json_mutations | puts)
@example(Put(("optimizer", "learning_rate"), BIG))
@example(Put(("model", "num_layers"), BIG))
@example(Put(("model", "vocab_size"), BIG))
@example(Put(("model", "dropout"), BIG))
@example(Put(("model", "num_heads"), BIG))
@example(Put(("model", "embed_dim"), 10**16 + 1))
@example(Put(("data", "tokenizer"), f"bpe:1{'0' * 300}"))
@example(Put(("data", "tokenizer"), f"bpe:{'9' * 5000}"))
@example(Put(("optimizer", "epsilon"), 1e-60))
@example(Put(("optimizer", "gradient_clip"), Raw("1e999")))
@example(Put(("seed",), Raw("1" * 5000)))
@example(Put(("preset",), []))
@example(Put(("preset",), "\ud800"))
@example(Put(("\x1b[2J",), 1))
@example(Whole(b"[" * 100_000))
def test_a_json_file_is_a_config_or_refused(tmp_path, mutation):
    load(tmp_path / "config.json", mutation(json.dumps(SETTINGS).encode()))


@given(mutation=trees | puts | cuts | wholes)
@example(Put(("optimizer", "learning_rate"), BIG))
@example(Put(("model", "norm_epsilon"), Raw("inf")))
@example(Put(("seed",), Raw("1979-05-27T07:32:00Z")))
@example(Put(("data", "data"), Raw("[1979-05-27]")))
@example(Put(("seed",), Raw("1" * 5000)))
@example(Whole(b"a." * 20_000 + b"a = 1"))
@example(Whole(b"a = " + b"[" * 100_000))
@example(Whole(b"a = " + b"{a=" * 50_000))
@example(Whole(b"\xff\xfe"))
def test_a_toml_file_is_a_config_or_refused(tmp_path, mutation):
    if hasattr(mutation, "into"):
        content = to_toml(mutation.into(SETTINGS)).encode(errors="surrogatepass")
    else:
        content = mutation(to_toml(SETTINGS).encode())
    load(tmp_path / "config.toml", content)


@given(
    name=st.sampled_from(["", "x", ".json", "x.json", "x.toml", "x.yaml", "\0.json", "\ud800.json"])
    | st.text(max_size=300)
)
@example("a" * 5000 + ".json")
def test_a_path_is_a_config_file_or_refused(tmp_path, name):
    attempt(lambda: load_config(tmp_path / name), ConfigError)


gpt2_puts = st.builds(
    lambda name, value: Put((name,), value), st.sampled_from(list(GPT2)), st.sampled_from(HOSTILE)
)


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    return tmp_path_factory.mktemp("hf")


@given(mutation=json_mutations | gpt2_puts)
@example(Put(("layer_norm_epsilon",), BIG))
@example(Put(("layer_norm_epsilon",), Raw("1e999")))
@example(Put(("embd_pdrop",), BIG))
@example(Put(("n_layer",), BIG))
@example(Put(("n_embd",), BIG))
@example(Put(("model_type",), ["gpt2"]))
@example(Put(("activation_function",), []))
@example(Put(("\x1b[2J",), 1))
@example(Whole(b"[" * 100_000))
def test_a_hugging_face_config_is_a_gpt2_or_refused(hugging_face, mutation):
    (hugging_face / "config.json").write_bytes(mutation(json.dumps(GPT2).encode()))
    config = attempt(lambda: read_huggingface_config(hugging_face)[1], CheckpointError)
    if isinstance(config, ModelConfig):
        attempt(lambda: (count_parameters(config), check_memory(config)), ResourceError)
        assert from_dict(ModelConfig(), to_dict(config)) == config


OTHERS = {
    name: {"model_type": family.model_type, **family.sizes[name]}
    | family.write(family.read(family.sizes[name]))
    for family in FAMILIES[1:]
    for name in list(family.sizes)[:1]
}
PATTERN = ("sliding_window_pattern", "max_window_layers", "rope_local_base_freq")
others_puts = st.builds(
    lambda name, value: Put((name,), value),
    st.sampled_from(sorted({name for values in OTHERS.values() for name in values} | set(PATTERN))),
    st.sampled_from(HOSTILE),
)
rope_puts = st.builds(
    lambda name, value: Put(("rope_parameters", name), value),
    st.sampled_from(["rope_type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor"])
    | st.sampled_from(["beta_fast", "beta_slow", "attention_factor", "truncate", "full_attention"])
    | st.sampled_from(["original_max_position_embeddings", "sliding_attention", "mscale"]),
    st.sampled_from(HOSTILE),
)


@given(name=st.sampled_from(sorted(OTHERS)), mutation=json_mutations | others_puts | rope_puts)
@example("gemma3-270m", Put(("layer_types",), 5))
@example("gemma3-270m", Put(("query_pre_attn_scalar",), 0))
@example("gemma3-270m", Put(("query_pre_attn_scalar",), -1.0))
@example("gemma3-270m", Put(("sliding_window_pattern",), -1))
@example("llama-3.2-1b", Put(("num_hidden_layers",), 10**9))
@example("llama-3.2-1b", Put(("vocab_size",), None))
@example("olmo3-7b", Put(("rope_parameters", "full_attention", "factor"), "yarn"))
@example("llama-3.2-1b", Put(("rope_parameters", "high_freq_factor"), 1.0))
@example("olmo3-7b", Put(("rope_parameters", "full_attention", "beta_slow"), 0))
@example("olmo3-7b", Put(("rope_parameters", "full_attention", "beta_fast"), -1))
def test_a_hugging_face_config_of_another_family_is_read_or_refused(hugging_face, name, mutation):
    (hugging_face / "config.json").write_bytes(mutation(json.dumps(OTHERS[name]).encode()))
    found = attempt(lambda: read_huggingface_config(hugging_face), CheckpointError)
    if isinstance(found, tuple):
        config = found[1]
        attempt(lambda: (count_parameters(config), check_memory(config)), ResourceError)
        assert from_dict(ModelConfig(), to_dict(config)) == config


def test_many_layers_are_counted_at_once():
    values = OTHERS["gemma3-270m"] | {"num_hidden_layers": 10**9}
    del values["layer_types"]
    assert read_family(values)[1].window_period == 6
