"""Bodies of requests to a server, damaged or hostile: an answer or one error, never a 500."""

import asyncio
import json

import pytest
from harness import Put, attempt, json_mutations
from hypothesis import example, given
from hypothesis import strategies as st

from jaxgpt.assistant.turn_encoder import TurnEncoder
from jaxgpt.finetuning.templates import TEMPLATES
from jaxgpt.serving.app import make_app
from jaxgpt.serving.config import ServingConfig
from jaxgpt.serving.engine_types import Chunk, EngineStats, Ticket, Token
from jaxgpt.serving.served import ServedModel

CHAT = {
    "model": "tiny",
    "messages": [
        {"role": "system", "content": "Be."},
        {"role": "user", "content": [{"type": "text", "text": "Who?"}]},
        {"role": "assistant", "content": "Finn."},
        {"role": "user", "content": "Who ran?", "name": "me"},
    ],
    "max_tokens": 5,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 3,
    "seed": 1,
    "n": 2,
    "stop": ["x", "y"],
    "stream": True,
    "stream_options": {"include_usage": True},
    "logprobs": True,
    "top_logprobs": 2,
    "truncation": "auto",
    "tools": [],
}
COMPLETION = {
    "model": "tiny",
    "prompt": ["Who", [1, 2]],
    "max_tokens": 5,
    "echo": False,
    "logprobs": 1,
    "stop": "x",
    "min_p": 0.1,
    "repetition_penalty": 1.1,
}
INSIDE = {"messages": CHAT["messages"], "answer_token_ids": [1, 2, 3], "index": 1}
PATHS = {"/v1/chat/completions": CHAT, "/v1/completions": COMPLETION, "/v1/inside": INSIDE}


class Echo:
    """An engine that has every answer at once: the last tokens of its prompt."""

    def submit(self, request, on_chunk):
        tokens = request.prompt[-request.max_new_tokens :]
        top = tuple((id, -float(id)) for id in range(request.top_logprobs or 0))
        on_chunk(Chunk("said", tuple(Token(id, -1.0, top) for id in tokens)))
        on_chunk(Chunk("", (), "stop"))
        return Ticket()

    def stats(self):
        return EngineStats(4, 0, 0, 0, 0, 0, 0)

    def close(self, seconds):
        """Nothing is open."""


@pytest.fixture(scope="module")
def ask(base):
    """`ask(path, body)`: status and body of the answer, through the application alone."""
    length = base.config.context_length
    encoder = TurnEncoder(TEMPLATES["chat"], base.tokenizer, length)
    served = ServedModel("tiny", base, Echo(), length, 4, encoder)
    app = make_app(served, ServingConfig())

    async def answer(path, body):
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        }
        coming, sent = [{"type": "http.request", "body": body}], []

        async def receive():
            if not coming:
                await asyncio.Event().wait()
            return coming.pop()

        async def send(message):
            sent.append(message)

        await app(scope, receive, send)
        return sent[0]["status"], b"".join(part["body"] for part in sent[1:])

    return lambda path, body: asyncio.run(answer(path, body))


@given(path=st.sampled_from(list(PATHS)), mutation=json_mutations)
@example("/v1/chat/completions", Put(("messages", 3, "content"), "<|im_end|>"))
@example("/v1/chat/completions", Put(("messages", 3, "content"), "a" * 5000))
@example("/v1/chat/completions", Put(("stop",), ["\0"]))
@example("/v1/completions", Put(("prompt",), []))
@example("/v1/completions", Put(("prompt",), [[True]]))
@example("/v1/completions", Put(("prompt",), [10**30]))
@example("/v1/completions", Put(("prompt",), 10**400))
@example("/v1/inside", Put(("index",), 10**30))
@example("/v1/inside", Put(("answer_token_ids",), [290]))
def test_a_body_is_answered_or_refused(ask, path, mutation):
    body = mutation(json.dumps(PATHS[path]).encode())
    status, found = attempt(lambda: ask(path, body))
    assert status in (200, 400, 404), found
    if status == 200 and found.startswith(b"data: "):
        *events, last, nothing = found.split(b"\n\n")
        assert (last, nothing) == (b"data: [DONE]", b"")
        assert all("choices" in json.loads(event[6:]) for event in events)
    elif status == 200:
        assert json.loads(found)["tokens" if path == "/v1/inside" else "choices"]
    else:
        error = json.loads(found)["error"]
        assert error["message"]
        assert "\n" not in error["message"]
