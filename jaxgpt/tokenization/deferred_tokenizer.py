"""GPT-2's tokenizer where its vocabulary is not on this machine: what needs no text needs none."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from jaxgpt.tokenization.bpe_tokenizer import BPETokenizer, gpt2_tokenizer
from jaxgpt.tokenization.gpt2_vocabulary import MissingVocabularyError, gpt2_ranks
from jaxgpt.tokenization.vocabulary import write_record


class DeferredGPT2:
    """GPT-2's tokenizer by name alone, found when it is first given a text or ids.

    Every method but `save` then raises as `gpt2_ranks` does, if it is not found.
    """

    name: str = "gpt2"
    vocab_size: int = 50257
    end_of_text: int | None = 50256
    fingerprint: str = "df29b6c8fb4b71ff1d71c10cbcdb0c7ce5c4441e1c6fc46a7495774e39b6a40e"

    @cached_property
    def found(self) -> BPETokenizer:
        """The tokenizer itself."""
        return gpt2_tokenizer(gpt2_ranks())

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """The ids of `text`; see `Tokenizer.encode`."""
        return self.found.encode(text, allow_special=allow_special)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`; see `Tokenizer.decode`."""
        return self.found.decode(tokens)

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        """The exact bytes of `tokens`; see `Tokenizer.decode_bytes`."""
        return self.found.decode_bytes(tokens)

    def with_special_tokens(self, names: Sequence[str]) -> BPETokenizer:
        """The tokenizer with more special tokens; see `BPETokenizer.with_special_tokens`."""
        return self.found.with_special_tokens(names)

    def save(self, folder: Path) -> None:
        """Write the name to `folder`, in `tokenizer.json`."""
        write_record(folder, {"name": self.name, "kind": "gpt2", "sha256": self.fingerprint})


def gpt2_or_deferred() -> BPETokenizer | DeferredGPT2:
    """GPT-2's tokenizer, or its name alone where the vocabulary is not found."""
    try:
        return gpt2_tokenizer(gpt2_ranks())
    except MissingVocabularyError:
        return DeferredGPT2()
