"""Documents -> tokens, written as the shards of one split."""

import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from jaxgpt.data.text import PIECE, Document, safe_cut
from jaxgpt.data.tokens import TokenSplit
from jaxgpt.tokenization.tokenizer import Tokenizer

WORKERS = os.cpu_count() or 1


@runtime_checkable
class Writer(Protocol):
    """What takes the ids of a split, such as a TokenWriter."""

    def append(self, ids: Int64[np.ndarray, " N"]) -> None:
        """Take `ids` after those before."""
        ...


class SplitEncoder:
    """Tokenizes documents and hands the ids to a writer; a context manager that leaves none behind.

    About a million characters at a time go to worker threads, which tiktoken lets run side by side;
    the order stays that of the documents, and memory is bounded however many or long they are.

    With `end_of_text` each document is followed by the tokenizer's end of text, where it has one.
    Without, the documents run on as one text, tokenized across their borders.
    """

    def __init__(self, writer: Writer, tokenizer: Tokenizer, *, end_of_text: bool) -> None:
        self._writer = writer
        self.num_bytes = self.num_documents = 0
        self.entropy_bits: float | None = 0.0
        self._tokenizer = tokenizer
        self._end_of_text = end_of_text
        self._pool = ThreadPoolExecutor(WORKERS)
        self._jobs: deque[Future[Int64[np.ndarray, " N"]]] = deque()
        self._waiting: list[tuple[str, bool]] = []
        self._characters = 0

    def add(self, document: Document) -> None:
        """Take the next document, or the next piece of one.

        Raises:
            DataError: see `Tokenizer.encode` and `TokenWriter.append`; about this document or one
                shortly before it.
        """
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
            text, start = "".join(text for text, _ in texts), 0
            texts = []
            while len(text) - start > PIECE:
                cut = safe_cut(text, start)
                texts.append((text[start:cut], False))
                start = cut
            rest = text[start:]
            if last:
                texts.append((rest, False))
        self._waiting = [(rest, False)] if rest else []
        self._characters = len(rest)
        self._jobs.append(self._pool.submit(self._encode, texts))
        while self._jobs and (last or len(self._jobs) > WORKERS):
            self._writer.append(self._jobs.popleft().result())

    def _encode(self, texts: list[tuple[str, bool]]) -> Int64[np.ndarray, " N"]:
        ids: list[int] = []
        for text, ends in texts:
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


class _Memory:
    """A writer that keeps what it is given."""

    def __init__(self) -> None:
        self.parts = [np.zeros(0, np.int32)]

    def append(self, ids: Int64[np.ndarray, " N"]) -> None:
        self.parts.append(ids.astype(np.int32))


def encode_documents(
    documents: Iterable[Document], tokenizer: Tokenizer, *, end_of_text: bool
) -> TokenSplit:
    """The tokens of documents, in memory, as `SplitEncoder` makes them."""
    memory = _Memory()
    with SplitEncoder(memory, tokenizer, end_of_text=end_of_text) as encoder:
        for document in documents:
            encoder.add(document)
    return TokenSplit(
        (np.concatenate(memory.parts),),
        encoder.num_bytes,
        encoder.num_documents,
        encoder.entropy_bits,
    )
