"""Text of one request, from tokens to chunks that can be sent at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxgpt.generation.text import TextWriter
from jaxgpt.serving.engine_types import Chunk, FinishReason, Request, Ticket, Token
from jaxgpt.serving.programs import Written
from jaxgpt.tokenization.tokenizer import Tokenizer


@dataclass(eq=False)
class Job:
    """A request on its way through the engine."""

    request: Request
    on_chunk: Callable[[Chunk], None]
    ticket: Ticket
    answer: "Answer"
    limit: int
    """The most tokens that it and the context let it write."""
    since: float
    """When it was submitted, by the monotonic clock."""


class Answer:
    """The text so far of one request, and its tokens.

    A token is given with the text that it is a part of, never before it.
    """

    def __init__(self, request: Request, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._writer = TextWriter(tokenizer, request.stop)
        self._waiting: list[Token] = []
        self._shown = ""  # of those that wait

    @property
    def stopped(self) -> bool:
        """Whether a stop string was written."""
        return self._writer.stopped

    def write(self, tokens: Sequence[Token]) -> tuple[str, list[Token]]:
        """The text and the tokens that are certain now; none after a stop string."""
        text, certain = "", []
        for token in tokens:
            if self.stopped:
                break
            self._waiting.append(token)
            piece = self._writer.write([token.id])
            text += piece
            self._shown += piece
            if self.stopped:
                certain += self._before_the_stop()
            elif not self._writer.holding:
                certain += self._waiting
                self._waiting, self._shown = [], ""
        return text, certain

    def finish(self, text: str, tokens: Sequence[Token], reason: FinishReason) -> Chunk:
        """The last chunk: what was certain since the one before, and what was held back."""
        rest = self._writer.finish()
        return Chunk(text + rest, (*tokens, *self._waiting), reason)

    def _before_the_stop(self) -> list[Token]:
        """Of the tokens that wait, those that the text before the stop string takes."""
        writer, shown, kept = TextWriter(self._tokenizer), "", []
        for token in self._waiting:
            if len(shown) >= len(self._shown):
                break
            kept.append(token)
            shown += writer.write([token.id])
        self._waiting = []
        return kept


def tokens_of(request: Request, written: Written, slot: int, new: list[int]) -> list[Token]:
    """The new tokens of a slot, with the log-probabilities that the request asks for."""
    if request.top_logprobs is None:
        return [Token(token) for token in new]
    most = request.top_logprobs
    return [
        Token(
            token,
            float(written.logprobs[slot, i]),
            tuple(
                zip(
                    written.top_ids[slot, i, :most].tolist(),
                    written.top_logprobs[slot, i, :most].tolist(),
                    strict=True,
                )
            ),
        )
        for i, token in enumerate(new)
    ]
