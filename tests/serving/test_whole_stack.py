"""The official client against a server with a real engine: what is asked at once and alone."""

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from jaxgpt.generation.settings import SamplingConfig
from jaxgpt.generation.text import generate_text
from jaxgpt.serving.engine import Engine

SAID = ["Who?", "Who ran 17 times?", "Finn ran to sea. Who ran?", "17", "Finn", "sea", "Who ran?"]


@pytest.fixture(scope="module")
def engine(base):
    engine = Engine(base, slots=4, queue=16, prefill_chunk=8)
    engine.start()
    return engine


@pytest.fixture(scope="module")
def client(serve, engine):
    with (
        serve(engine) as url,
        openai.OpenAI(base_url=url + "/v1", api_key="any", max_retries=0) as client,
    ):
        yield client


def chat(client, text, **options):
    options = {"temperature": 0, "seed": 5, "max_tokens": 12} | options
    messages = [{"role": "user", "content": text}]
    answer = client.chat.completions.create(model="tiny", messages=messages, **options)
    return answer.choices[0].message.content


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_at_once_the_answers_are_those_of_one_alone(client, engine, temperature):
    alone = [chat(client, text, temperature=temperature) for text in SAID]
    with ThreadPoolExecutor(len(SAID)) as pool:
        at_once = list(pool.map(lambda text: chat(client, text, temperature=temperature), SAID))
    assert at_once == alone
    assert len(set(alone)) > 1
    assert engine.stats().compiles == 0
    assert (engine.stats().busy, engine.stats().queued) == (0, 0)


def test_a_text_is_what_the_library_writes(client, base):
    options = {"max_new_tokens": 20, "sampling": SamplingConfig(temperature=0.0), "seed": 0}
    wanted = "".join(generate_text(base, "Who ran", **options))
    answer = client.completions.create(
        model="tiny", prompt="Who ran", max_tokens=20, temperature=0, logprobs=3
    )
    assert answer.choices[0].text == wanted
    logprobs = answer.choices[0].logprobs
    likeliest = [max(top.values()) for top in logprobs.top_logprobs]
    assert logprobs.token_logprobs == pytest.approx(likeliest)
    assert answer.usage.completion_tokens == len(logprobs.tokens)


def test_the_next_turn_computes_what_is_new(client):
    turns = [{"role": "user", "content": "Who ran 17 times?"}]
    options = {"model": "tiny", "temperature": 0, "max_tokens": 4}
    client.chat.completions.create(messages=turns, **options)
    again = client.chat.completions.create(messages=turns, **options)
    assert again.usage.prompt_tokens_details.cached_tokens >= 8
