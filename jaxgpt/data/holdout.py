"""Which text is for training and which is held out for validation."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxgpt.data.sources import is_plain_text, read_file
from jaxgpt.data.text import Document, read_text

_REACH = 1 << 16  # how far before the place asked for a text is cut at most, in bytes


def label_documents(
    files: Sequence[Path], fraction: float, field: str = "text"
) -> Iterator[tuple[str, Document]]:
    """The documents in `files`, each with "train" or "validation"; a `fraction` of them the latter.

    Plain text files count as one long text, whose end is held out: the file that holds the border
    is cut in two, at the end of a line or word nearby. From the other files documents are held out
    by a hash of their text, so that copies of one document never fall on both sides.
    """
    total = sum(file.stat().st_size for file in files if is_plain_text(file))
    left = int(total * (1 - fraction))  # bytes of plain text still to come for training
    reach = min(_REACH, min(left, total - left) // 10)
    for file in files:
        if is_plain_text(file):
            size = file.stat().st_size
            cut = _cut_before(file, left, reach) if 0 < left < size else min(left, size)
            left = max(0, left - size)
            if cut > 0:
                yield from (("train", document) for document in read_text(file, 0, cut))
            if cut < size:
                yield from (("validation", document) for document in read_text(file, cut))
        else:
            yield from _by_hash(file, fraction, field)


def _by_hash(file: Path, fraction: float, field: str) -> Iterator[tuple[str, Document]]:
    split = None
    for document in read_file(file, field):
        if split is None:  # the first piece decides for the whole document
            digest = hashlib.blake2b(document.text.encode(), digest_size=8).digest()
            held_out = int.from_bytes(digest, "little") < fraction * 2**64
            split = "validation" if held_out else "train"
        yield split, document
        if document.ends_document:
            split = None


def _cut_before(file: Path, place: int, reach: int) -> int:
    """The last line's end in the `reach` bytes before `place`, else word's end, else `place`.

    The last of these moves back to the first byte of a character.
    """
    start = max(0, place - max(reach, 3))
    with open(file, "rb") as content:
        content.seek(start)
        window = content.read(place - start + 1)
    before = window[:-1][-reach:] if reach else b""
    if (newline := before.rfind(b"\n")) >= 0:
        return place - len(before) + newline + 1
    if (space := before.rfind(b" ")) > 0:
        return place - len(before) + space
    while start < place and window[place - start] & 0b1100_0000 == 0b1000_0000:
        place -= 1
    return place
