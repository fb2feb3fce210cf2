"""Turns of a conversation as the prompt of its next answer, as many of them as fit."""

from bisect import bisect_left
from collections.abc import Sequence

from jaxgpt.errors import ConfigError
from jaxgpt.finetuning.instructions import encode_prompt, end_of_text
from jaxgpt.finetuning.templates import PromptTemplate, Turn
from jaxgpt.finetuning.vocabulary import has_special_markers
from jaxgpt.tokenization.chat_template import ChatTemplate
from jaxgpt.tokenization.tokenizer import Tokenizer


class TooLongError(ConfigError):
    """A message, or a conversation of which nothing may be left out, beyond the context."""


class TurnEncoder:
    """Encoder of turns by `template`, for a model that sees `context_length` tokens.

    Raises DataError if the tokenizer has no end-of-text token, so that no answer would end.
    """

    def __init__(self, template: PromptTemplate, tokenizer: Tokenizer, context_length: int):
        end_of_text(tokenizer)
        self.template = template
        self._tokenizer = tokenizer
        self._room = context_length
        if isinstance(template, ChatTemplate):
            self.stop, self.plain_markers = template.stops, template.plain_markers
            return
        markers = [*template.before.values(), template.after]
        # A model may write the next turn's marker where it is to end; as text it may lack the
        # white space that it ends in.
        self.stop = tuple({marker.rstrip() for marker in markers if marker.strip()})
        """Texts before which an answer ends."""
        bare = dict.fromkeys(marker.strip() for marker in markers if marker.strip())
        self.plain_markers = () if has_special_markers(template, tokenizer) else tuple(bare)
        """What a message may not hold, as the model would take it for a turn of its own."""

    def forged(self, text: str) -> str | None:
        """The first of the template's markers that `text` holds, where they are but text."""
        return next((marker for marker in self.plain_markers if marker in text), None)

    def said(self, written: str) -> str:
        """What an answer comes to in the turns that follow it."""
        return self.template.said(written) if isinstance(self.template, ChatTemplate) else written

    def fit(
        self,
        system: Sequence[Turn],
        turns: Sequence[Turn],
        max_new_tokens: int,
        *,
        leave_out: bool = True,
    ) -> tuple[int, list[int]]:
        """How many of the oldest exchanges to leave out, and the tokens of the others.

        `turns` end with the user's; an exchange is a user's turn with what follows up to the next.
        Up to a quarter of the context is kept for `max_new_tokens`. Raises TooLongError where
        nothing more can be left out, or, without `leave_out`, where anything would have to be.
        """
        room = self._room
        most = room - min(max_new_tokens, room // 4)
        begins = [i for i, turn in enumerate(turns) if turn.role == "user"]
        begins[0] = 0  # with an answer to nothing, should one stand first

        def encode(left_out: int) -> list[int]:
            kept = [*system, *turns[begins[left_out] :]]
            return encode_prompt(kept, self.template, self._tokenizer)

        # Fewer turns are fewer tokens, so a search by halves finds the first that fit.
        fits = 0
        if leave_out:
            places = range(len(begins) - 1)
            fits = bisect_left(places, True, key=lambda left_out: len(encode(left_out)) <= most)
        prompt = encode(fits)
        if len(prompt) > most:
            what = "message" if leave_out else "conversation"
            raise TooLongError(
                f"the {what} takes {len(prompt)} tokens with what the template and the system "
                f"prompt add; {most} of the context of {room} are for it, and the others for the "
                "answer; shorten it, or ask for fewer tokens"
            )
        return fits, prompt
