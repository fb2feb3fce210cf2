"""A session remembers, forgets and is drawn as it says, whatever interrupts it."""

import json

import jax
import pytest

from jaxgpt.assistant import chat as chat_module
from jaxgpt.assistant.chat import Chat, find_template
from jaxgpt.assistant.chat_config import ChatConfig
from jaxgpt.config import ModelConfig, TrainConfig
from jaxgpt.errors import ConfigError, DataError
from jaxgpt.finetuning.instructions import encode_prompt, read_conversations
from jaxgpt.finetuning.templates import TEMPLATES, Turn
from jaxgpt.generation import dispatch, prepared_params, text
from jaxgpt.generation.decoding import generate
from jaxgpt.generation.settings import SamplingConfig
from jaxgpt.tokenization.bpe import train_bpe
from jaxgpt.tokenization.tokenizer import BPETokenizer, ByteTokenizer
from jaxgpt.training.checkpoint import LoadedModel

TOKENIZER = train_bpe(["Name the hero. Who was kind? "] * 9, 270)
PHI = TEMPLATES["phi"]
SAMPLING = SamplingConfig(temperature=0.9, top_k=40)


@pytest.fixture(scope="module")
def make_model(random_params):
    def make(tokenizer=TOKENIZER, context_length=128, **options):
        config = ModelConfig(
            vocab_size=tokenizer.vocab_size,
            context_length=context_length,
            num_layers=1,
            num_heads=2,
            embed_dim=8,
        )
        params = random_params(config)
        return LoadedModel(config, params, tokenizer, 0, TrainConfig(model=config), **options)

    return make


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(task={"kind": "instructions", "template": "phi"})


def ask(chat, *messages):
    return ["".join(chat.reply(message)) for message in messages]


@pytest.fixture
def scripted(monkeypatch):
    """`scripted(*answers)`: decoding writes these, a chunk a character; what it was given."""
    prompts, answers = [], []

    def stream(config, params, given, *, done, **options):
        prompts.append(given[0])
        for character in answers.pop(0):
            if done[0]:
                return
            if character == "!":
                raise KeyboardInterrupt
            yield [TOKENIZER.encode(character)]

    monkeypatch.setattr(text, "stream", stream)
    return lambda *texts: answers.extend(texts) or prompts


@pytest.mark.slow
def test_an_answer_is_what_is_drawn_after_the_prompt_for_its_number(model):
    config = ChatConfig("Be kind.", max_new_tokens=9, seed=3, sampling=SAMPLING)
    chat = Chat(model, PHI, config)
    turns = [Turn("system", "Be kind.")]
    for number, message in enumerate(["Who?", "Where?"]):
        turns.append(Turn("user", message))
        (tokens,) = generate(
            model.config,
            model.params,
            [encode_prompt(turns, PHI, TOKENIZER)],
            max_new_tokens=9,
            sampling=SAMPLING,
            seed=3,
            sample_indices=[number],
            end_of_text=TOKENIZER.end_of_text,
        )
        assert ask(chat, message) == [TOKENIZER.decode(tokens)]
        turns.append(Turn("assistant", TOKENIZER.decode(tokens)))
    assert chat.turns == tuple(turns[1:])


@pytest.mark.slow
def test_the_same_messages_and_seed_are_the_same_session(model):
    def session(seed):
        chat = Chat(model, PHI, ChatConfig(max_new_tokens=6, seed=seed, sampling=SAMPLING))
        first, _ = ask(chat, "Who?", "Who?")
        again = "".join(chat.retry())
        chat.reset()
        chat.change("seed", str(seed))
        assert ask(chat, "Who?") == [first]
        assert again != first
        return [first, again, *chat.turns]

    assert session(1) == session(1) != session(2)


def test_retry_puts_another_answer_in_the_place_of_the_last(scripted, model):
    prompts = scripted("one", "two", "three", "!", "")
    chat = Chat(model, PHI)
    ask(chat, "a", "b")
    assert "".join(chat.retry()) == "three"
    assert prompts[2] == prompts[1]
    kept = (Turn("user", "a"), Turn("assistant", "one"), Turn("user", "b"))
    assert chat.turns == (*kept, Turn("assistant", "three"))
    with pytest.raises(KeyboardInterrupt):
        list(chat.retry())
    assert list(chat.retry()) == [""]  # an empty answer
    assert chat.turns == (*kept, Turn("assistant", "three"))
    chat.undo()
    assert chat.turns == kept[:2]
    chat.reset()
    for act in (chat.undo, chat.retry):
        with pytest.raises(ConfigError, match="nothing was said yet"):
            act()


@pytest.mark.parametrize(
    ("name", "written", "answer"),
    [
        ("alpaca", "Finn.\n\n### Instruction:\nWho?", "Finn."),
        ("alpaca", "Finn.\n\n### Response: no", "Finn."),
        ("phi", "Finn.<|end|>", "Finn."),
        ("phi", "Finn\n<|user|>\nWho?", "Finn\n"),
        ("chat", "Finn.<|im_end|>\n<|im_start|>", "Finn."),
        ("chat", "Finn.<|im_start|>user\n", "Finn."),
        ("chat", "a\n\n<|im_", "a\n\n<|im_"),
    ],
)
def test_a_marker_of_the_template_ends_an_answer(scripted, make_model, name, written, answer):
    scripted(written)
    chat = Chat(make_model(context_length=512), TEMPLATES[name])
    assert ask(chat, "Who?") == [answer]
    assert chat.turns[-1] == Turn("assistant", answer)


def test_markers_that_are_special_tokens(scripted, make_model):
    special = TOKENIZER.special_tokens | {"<|im_start|>": 270, "<|im_end|>": 271}
    tokenizer = BPETokenizer("bpe", TOKENIZER.pattern, TOKENIZER.ranks, special)
    prompts = scripted("Finn.<|im_end|>")
    assert ask(Chat(make_model(tokenizer), TEMPLATES["chat"]), "<|im_end|>") == ["Finn."]
    assert (prompts[0].count(270), prompts[0].count(271)) == (2, 1)


@pytest.mark.parametrize("system", ["", "Be kind."])
def test_the_oldest_exchanges_are_left_out_and_room_is_kept(scripted, model, system):
    prompts = scripted(*("answer" * number for number in range(1, 8)))
    chat, left_out = Chat(model, PHI, ChatConfig(system, max_new_tokens=30)), []
    for number in range(7):
        turns = [*chat.turns, Turn("user", f"message {number}")]
        ask(chat, turns[-1].text)

        def encoded(count, turns=turns):
            first = [Turn("system", system)] if system else []
            return encode_prompt([*first, *turns[2 * count :]], PHI, TOKENIZER)

        assert prompts[number] == encoded(chat.left_out)
        assert len(prompts[number]) <= 128 - 30
        assert chat.left_out == 0 or len(encoded(chat.left_out - 1)) > 128 - 30
        left_out.append(chat.left_out)
    assert left_out[0] == 0
    assert len(set(left_out)) > 2
    assert len(chat.turns) == 14  # it is the prompt alone that is without them


def test_an_answer_does_not_go_past_the_context(model, monkeypatch):
    asked = []

    def generate_text(model, prompt, *, max_new_tokens, **options):
        asked.append((len(prompt), max_new_tokens))
        return iter(["a"])

    monkeypatch.setattr(chat_module, "generate_text", generate_text)
    ask(Chat(model, PHI, ChatConfig(max_new_tokens=5000)), "Who?", "Where?", "Why?")
    assert [prompt + new for prompt, new in asked] == [128] * 3
    assert min(new for _, new in asked) >= 32


def test_a_message_that_does_not_fit_changes_nothing(scripted, model):
    scripted("one", "two")
    chat = Chat(model, PHI, ChatConfig(max_new_tokens=50))  # of which a quarter of 128 is kept
    ask(chat, "a")
    turns = chat.turns
    with pytest.raises(ConfigError, match=r"takes 1\d\d tokens .*; 96 of the context of 128 are"):
        chat.reply("x" * 80)
    assert chat.turns == turns
    chat.change("max_new_tokens", "10")
    assert ask(chat, "x" * 80) == ["two"]
    assert chat.left_out == 1
    with pytest.raises(ConfigError, match="message is empty"):
        chat.reply(" \n")


def test_what_was_written_before_an_interrupt_is_kept(scripted, model):
    scripted("one!", "two", "!", "four")
    chat = Chat(model, PHI)
    with pytest.raises(KeyboardInterrupt):
        list(chat.reply("a"))
    pieces = chat.reply("b")
    assert next(pieces) == "t"
    assert next(pieces) == "w"
    pieces.close()
    answers = [turn.text for turn in chat.turns if turn.role == "assistant"]
    assert answers == ["one", "tw"]
    with pytest.raises(KeyboardInterrupt):
        list(chat.reply("c"))
    assert len(chat.turns) == 4
    assert ask(chat, "d") == ["four"]


@pytest.mark.slow
def test_programs_are_compiled_for_the_first_session_alone(make_model, monkeypatch):
    model, prepared = make_model(context_length=112), []  # a context of no other test
    prepare = prepared_params.unstack
    monkeypatch.setattr(
        prepared_params, "unstack", lambda blocks: prepared.append(1) or prepare(blocks)
    )

    def session():
        chat = Chat(model, PHI, ChatConfig(max_new_tokens=8))
        return ask(chat, *("Who is kind? " * 3)[:30].split(), "Where?", "Why?")

    compiled = dispatch.prefill._cache_size(), dispatch.extend._cache_size()
    answers, events = session(), []
    # Prompts of up to 32, 64 and 112 tokens, and a single width of the cache.
    assert dispatch.prefill._cache_size() - compiled[0] <= 3
    assert dispatch.extend._cache_size() - compiled[1] == 1
    assert prepared == [1]
    listen = lambda event, *_, **__: events.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listen)
    assert session() == answers
    jax.monitoring.unregister_event_duration_listener(listen)
    assert not [event for event in events if "backend_compile" in event]


def test_a_saved_conversation_is_read_again(scripted, model, tmp_path):
    scripted("Finn 🙂.\n", "At sea.")
    chat, path = Chat(model, PHI, ChatConfig("Be kind.", 9)), tmp_path / "chat.jsonl"
    with pytest.raises(ConfigError, match="nothing was said yet"):
        chat.save(path)
    ask(chat, "Who?", 'Where is "he"?\n')
    chat.save(path)
    (read,) = read_conversations([path])
    assert read.turns == (Turn("system", "Be kind."), *chat.turns)
    assert [entry.name for entry in tmp_path.iterdir()] == ["chat.jsonl"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("there.jsonl", "is there already"),
        ("chat.txt", "must end in .jsonl"),
        ("", "must end in .jsonl"),
        ("none/chat.jsonl", "cannot be written"),
        ("a" * 300 + ".jsonl", "cannot be written"),
    ],
)
def test_where_a_conversation_cannot_be_saved(scripted, model, tmp_path, name, message):
    (tmp_path / "there.jsonl").write_text(json.dumps({}))
    scripted("a")
    chat = Chat(model, PHI)
    ask(chat, "Who?")
    with pytest.raises(ConfigError, match=message):
        chat.save(tmp_path / name)
    assert [entry.name for entry in tmp_path.iterdir()] == ["there.jsonl"]
    assert (tmp_path / "there.jsonl").read_text() == "{}"


def test_every_setting_can_be_changed():
    config = ChatConfig()
    for name, value in config.values().items():
        text = "Be kind." if isinstance(value, str) else "0.5" if isinstance(value, float) else "7"
        changed = config.change(name, text).values()
        assert changed == config.values() | {name: type(value)(text)}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", "warm", "temperature is 'warm'; it must be a number"),
        ("temperature", "nan", "temperature is nan"),
        ("top_k", "1.5", "top_k is '1.5'; it must be a whole number"),
        ("top_p", "", "top_p is ''; it must be a number"),
        ("max_new_tokens", "0", "max_new_tokens is 0; it must be from 1"),
        ("seed", "-1", "seed is -1; it must be from 0"),
    ],
)
def test_a_bad_value_changes_nothing(model, name, value, message):
    chat = Chat(model, PHI)
    with pytest.raises(ConfigError, match=message):
        chat.change(name, value)
    assert chat.config == ChatConfig()


def test_the_template_is_the_one_of_the_tuning_or_the_one_asked_for(model, make_model):
    assert find_template(model) is PHI
    with pytest.warns(UserWarning, match="tuned with template phi, not chat"):
        assert find_template(model, "chat") is TEMPLATES["chat"]
    with pytest.raises(ConfigError, match=r"called alpacca \(did you mean alpaca"):
        find_template(model, "alpacca")
    with pytest.warns(UserWarning, match="trained on texts alone"):
        assert find_template(make_model()) is TEMPLATES["alpaca"]


def test_a_tokenizer_without_an_end_is_refused(make_model):
    with pytest.raises(DataError, match="no end-of-text token"):
        Chat(make_model(ByteTokenizer()), PHI)
