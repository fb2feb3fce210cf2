"""Documents -> tokens, written as the shards of one split, or in memory."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from jaxtyping import Int64

from jaxgpt.data.shards import TokenWriter
from jaxgpt.data.text import PIECE, Document, cut_up
from jaxgpt.data.tokens import TokenSplit
from jaxgpt.tokenization.tokenizer import Tokenizer, prefix_of

WORKERS = os.cpu_count() or 1


class SplitEncoder:
    """Tokenizes documents and hands the ids to a writer; a context manager that leaves none behind.

    About a million characters at a time go to worker threads, which tiktoken lets run side by side;
    the order stays that of the documents, and memory is bounded however many or long they are.
    `end_of_text` is as in `write_tokens`. Each document, or the one text that all of them run on as
    without, begins with what the tokenizer has for that.
    """

    def __init__(
        self, writer: TokenWriter | list[np.ndarray], tokenizer: Tokenizer, *, end_of_text: bool
    ) -> None:
        self._writer = writer
        self.num_bytes = self.num_documents = 0
        self.entropy_bits: float | None = 0.0
        self._tokenizer = tokenizer
        self._end_of_text = end_of_text
        self._pool = ThreadPoolExecutor(WORKERS)
        self._jobs: deque[Future[Int64[np.ndarray, " N"]]] = deque()
        self._waiting: list[tuple[str, bool]] = []
        self._characters = 0
        self._begins = True

    def add(self, document: Document) -> None:
        """Take the next document or piece of one; DataError may be about one shortly before it."""
        self.num_bytes += len(document.text.encode())
        self.num_documents += document.ends_document
        if self.entropy_bits is not None and document.entropy_bits is not None:
            self.entropy_bits += document.entropy_bits
        else:
            self.entropy_bits = None
        self._waiting.append((document.text, document.ends_document))
        self._characters += len(document.text)
        if self._characters > PIECE:
            self._submit()

    def _submit(self, *, last: bool = False) -> None:
        """Start on the waiting texts, but for what may still grow to a longer token."""
        texts, rest = self._waiting, ""
        if not self._end_of_text:
            *texts, (rest, _) = cut_up("".join(text for text, _ in texts))
            texts += [(rest, False)] if last else []
        self._waiting = [(rest, False)] if rest else []
        self._characters = len(rest)
        self._jobs.append(self._pool.submit(self._encode, list(self._with_beginnings(texts))))
        while self._jobs and (last or len(self._jobs) > WORKERS):
            self._writer.append(self._jobs.popleft().result())

    def _with_beginnings(self, texts: list[tuple[str, bool]]) -> Iterator[tuple[bool, str, bool]]:
        """Each text with whether it begins a document, and whether it ends one."""
        for text, ends in texts:
            yield self._begins and bool(text), text, ends
            self._begins = (ends and self._end_of_text) or (self._begins and not text)

    def _encode(self, texts: list[tuple[bool, str, bool]]) -> Int64[np.ndarray, " N"]:
        ids: list[int] = []
        for begins, text, ends in texts:
            ids += prefix_of(self._tokenizer) if begins else ()
            ids += self._tokenizer.encode(text)
            if ends and self._end_of_text and self._tokenizer.end_of_text is not None:
                ids.append(self._tokenizer.end_of_text)
        return np.array(ids, np.int64)

    def __enter__(self) -> "SplitEncoder":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._submit(last=True)
        finally:
            self._pool.shutdown(cancel_futures=True)


def encode_documents(
    documents: Iterable[Document], tokenizer: Tokenizer, *, end_of_text: bool
) -> TokenSplit:
    """The tokens of documents, in memory, as `SplitEncoder` makes them."""
    parts = [np.zeros(0, np.int64)]
    with SplitEncoder(parts, tokenizer, end_of_text=end_of_text) as encoder:
        for document in documents:
            encoder.add(document)
    tokens = np.concatenate(parts, dtype=np.int32, casting="same_kind")
    return TokenSplit((tokens,), encoder.num_bytes, encoder.num_documents, encoder.entropy_bits)
