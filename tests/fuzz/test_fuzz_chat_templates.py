"""A chat template of anybody's: ids, and no control token that a message spells, or a refusal."""

import json

import pytest
from harness import HOSTILE, attempt, cuts
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from jaxgpt.errors import CheckpointError, DataError
from jaxgpt.tokenization.chat_template import find_chat_template
from jaxgpt.tokenization.tokenizer import load_tokenizer

CONTROL = ["<|end|>", "<|user|>", "<|assistant|>"]
SOUND = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message.content | trim"
    " }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PIECES = [
    *("{% for message in messages %}", "{% endfor %}", "{% for i in range(10**9) %}", "{{ i }}"),
    *("{% if add_generation_prompt %}", "{% else %}", "{% endif %}", "<|end|>", "<|assistant|>"),
    *("{{ message.content }}", "{{ message['role'] }}", "{{ messages }}", "{{ messages[-1] }}"),
    *("{{ 'a' * 10**9 }}", "{{ 2 ** 10**9 }}", "{{ [[0] * 9999] * 9999 }}"),
    *("{{ 'a' | center(10**9) }}", "{{ ''.__class__.__mro__ }}"),
    *("{{ messages.__init__.__globals__ }}", "{{ self }}", "{{ 1 / 0 }}", "{% set x = 'a' %}"),
    *("{% set ns = namespace(x=0) %}", "{% set ns.x = ns.x ~ ns.x %}", "{{ x }}"),
    *("{% macro m(a) %}", "{% endmacro %}", "{{ m(m) }}", "{% include 'x' %}"),
    *("{% import 'os' as o %}", "{{ raise_exception('no') }}", "{{ strftime_now('%Y') }}"),
    *("{{ messages | tojson }}", "{# x #}", "{{ '%999999999d' % 1 }}"),
    *("{{ '{:>999999999}'.format(1) }}", "{{ messages | map('upper') }}", "{% raw %}"),
    *("{% endraw %}", "{% generation %}", "{% endgeneration %}", "{%- break %}", "\0"),
]
hostile = [text for text in HOSTILE if isinstance(text, str)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Of bytes, with three control tokens."""
    folder = tmp_path_factory.mktemp("template")
    tokenizer = Tokenizer(
        models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(CONTROL)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": 259}))
    settings = {"eos_token": "<|end|>", "bos_token": "<|user|>", "chat_template": SOUND}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return load_tokenizer(folder)


def encode(tokenizer, template, said):
    tokenizer.files["tokenizer_config.json"] = json.dumps(
        {"eos_token": "<|end|>", "bos_token": "<|user|>", "chat_template": template}
    ).encode()
    found = find_chat_template(tokenizer)
    messages = [{"role": "user", "content": said}, {"role": "assistant", "content": said}]
    if found is None:
        return []
    found.encode_conversation(messages)
    return found.encode(messages[:1])


def check(tokenizer, template, said):
    ids = attempt(lambda: encode(tokenizer, template, said), CheckpointError, DataError)
    if not isinstance(ids, list):
        return
    control = set(tokenizer.special_tokens.values())
    plain = attempt(lambda: encode(tokenizer, template, "x"), CheckpointError, DataError)
    if isinstance(plain, list):
        counts = [sum(token in control for token in found) for found in (ids, plain)]
        assert counts[0] == counts[1], "a message became a control token"


texts = st.sampled_from([*CONTROL, "<|end", "<|user|><|end|>", *hostile]) | st.text(max_size=9)


@given(mutation=cuts, said=texts)
def test_a_damaged_template_is_one_or_refused(tokenizer, mutation, said):
    check(tokenizer, mutation(SOUND.encode()).decode(errors="replace"), said)


@pytest.mark.slow
@given(pieces=st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=8), said=texts)
@example(["{% for message in messages %}", "{{ message.content }}", "{% endfor %}"], "<|end|>")
@example(["{% for i in range(10**9) %}", "{{ i }}", "{% endfor %}"], "a")
@example(["{% macro m(a) %}", "{{ m(m) }}", "{% endmacro %}", "{{ m(m) }}"], "a")
@example(["{% set x = 'a' %}" * 3000], "a")
@example(["{% if x %}" * 3000], "a")
@example(["{{ " + "(" * 50_000], "a")
def test_a_hostile_template_is_one_or_refused(tokenizer, pieces, said):
    check(tokenizer, "".join(pieces), said)


@given(template=st.sampled_from(HOSTILE) | st.lists(st.dictionaries(texts, texts, max_size=2)))
@example([{"name": "default", "template": SOUND}, {"name": "tool", "template": ""}])
@example([{"name": [], "template": SOUND}])
@example([{"name": "default"}])
def test_what_is_no_template_is_refused(tokenizer, template):
    if isinstance(template, str | list | dict | bool | int | float | None):
        check(tokenizer, template, "a")
