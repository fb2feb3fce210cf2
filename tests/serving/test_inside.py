"""/v1/inside over HTTP: what it gives for a token of an answer, and what it refuses."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from fake_engine import FakeEngine

from jaxgpt.finetuning.instructions import encode_prompt
from jaxgpt.finetuning.templates import TEMPLATES, Turn
from jaxgpt.serving.look import look_inside

HELLO = {"messages": [{"role": "user", "content": "Who?"}]}
LOOK = HELLO | {"answer_token_ids": [1], "index": 0}


def post(url, body):
    """Status and answer of a request to /v1/inside."""
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/inside", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]


@pytest.fixture(scope="module")
def tokens(base):
    return base.tokenizer.encode("Finn ran")


@contextmanager
def served(base, serve, **settings):
    with serve(FakeEngine(base.tokenizer), **settings) as url:
        yield url


@pytest.mark.slow
def test_a_token_is_looked_from_as_the_answer_was_asked_for(base, serve, tokens):
    prompt = encode_prompt([Turn("user", "Who?")], TEMPLATES["chat"], base.tokenizer)
    index = len(tokens) - 2
    with served(base, serve) as url:
        status, said = post(url, HELLO | {"answer_token_ids": tokens, "index": index})
        assert status == 200
        _, before = post(url, HELLO | {"answer_token_ids": tokens, "index": -1})
    text = [*prompt, *tokens[:-1]]
    look = look_inside(base, text)
    assert said["token_ids"] == text
    assert "".join(said["tokens"]) == base.tokenizer.decode(text)
    assert said["surprise"][0] is None
    np.testing.assert_allclose(said["surprise"][1:], look.surprise[1:], atol=0.001)
    np.testing.assert_allclose(said["attention"], look.attention, atol=0.0001)
    assert before["token_ids"] == prompt
    assert before["left_out"] == 0


def test_a_model_without_a_chat_is_looked_into_by_its_prompt(base, serve):
    answer = base.tokenizer.encode("é")
    body = {"prompt": "Finn", "answer_token_ids": answer, "index": 1}
    with served(base, serve, chat=False) as url:
        status, said = post(url, body)
        refused, why = post(url, HELLO | {"answer_token_ids": answer, "index": 1})
    assert status == 200
    assert said["tokens"][-2:] == ["\\xc3", "\\xa9"], "parts of a character are spelt"
    assert (refused, why["code"]) == (400, "chat_not_supported")


BAD = [
    ({"index": None}, "index is missing; it must be from -1 to 1"),
    ({"index": 2}, "index is 2; it must be from -1 to 1"),
    ({"index": -2}, "index is -2; it must be from -1 to 1"),
    ({"index": True}, "index is True"),
    ({"answer_token_ids": None}, "answer_token_ids is None; it must be a list of numbers"),
    ({"answer_token_ids": "ab"}, "answer_token_ids is 'ab'"),
    ({"answer_token_ids": [1, "b"]}, "answer_token_ids is [1, 'b']"),
    ({"answer_token_ids": [1, True]}, "answer_token_ids is [1, True]"),
    ({"answer_token_ids": [1, 290]}, "a token's id is 290; it must be from 0 to 289"),
    ({"answer_token_ids": [1] * 60, "index": 59}, "the number of tokens of the text is"),
    ({"messages": []}, "messages is missing or empty"),
    ({"model": "other"}, "there is no model 'other'"),
    ({"layers": 3}, "there is no field 'layers'"),
]


def test_what_cannot_be_is_refused(base, serve):
    with served(base, serve) as url:
        for change, message in BAD:
            status, error = post(url, HELLO | {"answer_token_ids": [1, 2], "index": 1} | change)
            assert status == (404 if "model" in change else 400)
            assert error["message"].startswith(message), error


@pytest.fixture
def held(monkeypatch):
    """Looks that begin and last until `held.go` is set; `held.begun` counts them."""

    class Held:
        go, begun = threading.Event(), 0

        def look(self, served, body):
            self.begun += 1
            assert self.go.wait(20)
            return {"begun": self.begun}

    held = Held()
    monkeypatch.setattr("jaxgpt.serving.app.inside", held.look)
    yield held
    held.go.set()


def asked(url):
    """The connection on which a look is asked for."""
    body = json.dumps(LOOK).encode()
    host, _, port = url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(
        b"POST /v1/inside HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    return connection


def answered(url, status):
    """How many looks were answered so; 0 is for callers who left."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    of = f'jaxgpt_responses_total{{path="/v1/inside",status="{status}"}} '
    return sum(float(line[len(of) :]) for line in text.splitlines() if line.startswith(of))


def test_looks_of_callers_who_left_are_not_computed(base, serve, held):
    with served(base, serve) as url, ExitStack() as callers:
        callers.enter_context(asked(url))
        wait_for(lambda: held.begun == 1)
        for _ in range(8):
            callers.enter_context(asked(url))
        wait_for(lambda: answered(url, 429) == 1)
        assert post(url, LOOK)[1]["code"] == "queue_full"
        callers.close()
        wait_for(lambda: answered(url, 0) == 8)
        held.go.set()
        assert post(url, LOOK)[0] == 200
        assert held.begun == 2


def test_time_that_is_up_ends_a_look(base, serve, held):
    with served(base, serve, request_timeout=0.2) as url:
        status, error = post(url, LOOK)
        held.go.set()
    assert status == 504
    assert error["message"].startswith("the look inside was not done within 0.2 seconds")


def wait_for(condition):
    ends = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)
