"""What is typed at a chat and what it saves: a setting that holds, a file that reads back."""

import json
from itertools import count

import jax
import pytest
from harness import HOSTILE, attempt
from hypothesis import example, given
from hypothesis import strategies as st

from jaxgpt.assistant.chat import Chat
from jaxgpt.assistant.chat_config import ChatConfig
from jaxgpt.errors import DataError, JaxgptError
from jaxgpt.finetuning.instructions import read_conversations
from jaxgpt.finetuning.templates import TEMPLATES, Turn


@pytest.fixture(scope="module")
def chat(base):
    return Chat(base, TEMPLATES["chat"])


texts = st.text(max_size=20)
EXAMPLES = count(1)


@given(said=st.lists(st.tuples(texts, texts), max_size=3), system=texts)
@example([("\ud800", "b")], "")
@example([("a\n\u2028b", "\x85")], "\0")
def test_a_saved_chat_is_read_back_as_it_was(tmp_path, chat, said, system):
    chat.reset()
    chat.config = ChatConfig(system=system)
    for question, answer in said:
        chat.turns += (Turn("user", question), Turn("assistant", answer))
    path = tmp_path / "chat.jsonl"
    path.unlink(missing_ok=True)
    if isinstance(attempt(lambda: chat.save(path), JaxgptError), JaxgptError):
        return
    found = attempt(lambda: read_conversations([path]), DataError)
    if not isinstance(found, DataError):
        turns = found[0].turns
        assert turns[-len(chat.turns) :] == chat.turns
        assert json.loads(path.read_text())


names = st.sampled_from(
    [
        *("system", "max_new_tokens", "seed", "repetition_penalty", "temperature"),
        *("top_k", "top_p", "min_p"),
    ]
)
settings = st.sampled_from([str(x)[:500] for x in HOSTILE]) | st.text(max_size=10)


@given(name=names, text=settings | st.integers().map(str) | st.floats().map(str))
@example("top_k", "1" + "0" * 400)
@example("top_k", "1" + "0" * 5000)
@example("seed", "1" + "0" * 400)
@example("temperature", "1e999")
@example("temperature", "1e-60")
@example("repetition_penalty", "1e300")
@example("top_p", "1e-60")
@example("system", "\ud800")
def test_a_chat_setting_holds_or_is_refused(chat, name, text):
    if next(EXAMPLES) % 500 == 0:
        jax.clear_caches()  # a process may not map the programs of thousands of settings
    chat.reset()
    chat.config = ChatConfig()

    def answer():
        chat.change(name, text)
        chat.change("max_new_tokens", "1")
        return "".join(chat.reply("Who?"))

    attempt(answer, JaxgptError)
