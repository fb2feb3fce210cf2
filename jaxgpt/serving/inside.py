"""Endpoint /v1/inside, jaxgpt's own: where the model looked as it wrote a token of an answer."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxgpt.errors import brief
from jaxgpt.fields import check_range
from jaxgpt.serving.api_errors import ApiError
from jaxgpt.serving.bodies import ChatBody, CompletionBody, read_chat, read_completion
from jaxgpt.serving.forms import spelt
from jaxgpt.serving.json_fields import Fields
from jaxgpt.serving.look import look_inside
from jaxgpt.serving.served import ServedModel


@dataclass(frozen=True)
class InsideBody:
    """Body of /v1/inside: that of the request that was answered, and a token of the answer."""

    asked: ChatBody | CompletionBody
    answer: tuple[int, ...]
    index: int
    """The token to look from: 0 is the first of the answer, -1 the last of the prompt."""


def read_inside(values: dict[str, Any]) -> InsideBody:
    """What a body of /v1/inside asks for; raises ApiError, naming the field.

    It holds the `messages` or the `prompt` that were answered, with whatever else decides the
    tokens of the prompt; in `answer_token_ids` those of the answer; and an `index` into them.
    """
    own = {name: values[name] for name in ("answer_token_ids", "index") if name in values}
    rest = {name: value for name, value in values.items() if name not in own}
    fields = Fields(own)
    answer = fields.take("answer_token_ids", Any, None)
    if not isinstance(answer, list) or any(type(token) is not int for token in answer):
        raise ApiError(
            f"answer_token_ids is {brief(answer)}; it must be a list of numbers, the answer's "
            "tokens, which logprobs give as token_id",
            param="answer_token_ids",
        )
    index = fields.within("index", -1, len(answer) - 1, None)
    if index is None:
        raise ApiError(
            f"index is missing; it must be from -1 to {len(answer) - 1}, the token to look from",
            param="index",
        )
    asked = read_chat(rest) if "messages" in rest else read_completion(rest)
    return InsideBody(asked, tuple(answer), index)


def inside(served: ServedModel, body: InsideBody) -> dict[str, Any]:
    """The answer to `body`: the text up to the token that is looked from, and what was computed.

    `tokens` are strings, `surprise` is in bits (null for the first), `attention` (L, H, T) is what
    share of its attention each head of each layer gave to each token, and `left_out` counts the
    tokens before these, without which all was computed. Raises ApiError as the endpoint
    that was asked.
    """
    asked = body.asked
    work = served.chat(asked) if isinstance(asked, ChatBody) else served.complete(asked)
    text = [*work.requests[0].prompt, *body.answer[: body.index + 1]]
    check_range("the number of tokens of the text", len(text), 1, served.context_length)
    look = look_inside(served.model, text)
    surprise = [round(float(bits), 3) for bits in look.surprise]
    return {
        "object": "inside",
        "model": served.name,
        "tokens": [spelt(served.model.tokenizer, token) for token in look.tokens],
        "token_ids": list(look.tokens),
        "left_out": look.left_out,
        "surprise": [None, *surprise[1:]],
        "attention": np.round(look.attention.astype(np.float64), 4).tolist(),
    }
