"""Which slot a prompt goes to, and how much of it is there already.

Keys and values of a prompt are taken in by chunks of one size, from its first token on, and so are
a function of its tokens alone: another prompt that begins with the same whole chunks may have them,
and gets the same numbers as if it had computed them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxgpt.config import ModelConfig
from jaxgpt.model.transformer import STANDARD, block_of
from jaxgpt.serving.answer import Job


@dataclass(eq=False)
class Slot:
    """A place of the batch, and the text that it holds."""

    index: int
    job: Job | None = None
    """The request that is served in it, or None."""
    tokens: list[int] = field(default_factory=list)
    """The text whose keys and values are there, or will be."""
    taken_in: int = 0
    """How many of them were taken in by chunks."""
    begun: int = 0
    """How many requests had begun when its last one did."""

    def shared(self, prompt: Sequence[int], chunk: int) -> int:
        """Tokens in whole chunks that the prompt begins with too, but for its last token."""
        most = min(self.taken_in, len(prompt) - 1) // chunk * chunk
        same = next((i for i in range(most) if self.tokens[i] != prompt[i]), most)
        return same // chunk * chunk


def can_share(config: ModelConfig, length: int) -> bool:
    """Whether a part of a slot's cache can serve another text of up to `length` tokens.

    Not where a window's ring has come round, nor where a block of the caller's keeps sums.
    """
    return block_of(config) == STANDARD and (not config.window or config.window >= length)


def place(
    slots: Sequence[Slot], prompt: Sequence[int], chunk: int, *, share: bool
) -> tuple[Slot, Slot | None, int]:
    """A free slot for the prompt, the slot to copy keys and values from, and how many of them.

    The source is the slot itself where it has them, and None where there are none. Texts that were
    used last are kept longest.
    """
    free = [slot for slot in slots if slot.job is None]
    oldest = min(free, key=lambda slot: (slot.taken_in > 0, slot.begun))
    shared = {slot.index: slot.shared(prompt, chunk) if share else 0 for slot in slots}
    source = max(slots, key=lambda slot: (shared[slot.index], slot.job is None))
    count = shared[source.index]
    if not count:
        return oldest, None, 0
    # What a slot holds besides is lost as it goes on, so where that is much it goes on in another.
    spare = source is oldest or source.taken_in // chunk * chunk - count <= chunk
    return (source if source.job is None and spare else oldest), source, count
