import hashlib
import struct
import zlib

import numpy as np
import pytest

from jaxgpt.data.batches import SlidingWindows, permute
from jaxgpt.data.shards import BLOCK, TokenWriter, open_shard, verify_shard
from jaxgpt.data.tokens import TokenSplit
from jaxgpt.errors import ConfigError, DataError


def write(folder, ids, vocab_size=1000, shard_tokens=100):
    with TokenWriter(folder, "train", vocab_size, shard_tokens) as writer:
        for part in np.array_split(np.array(ids, np.int64), 7):
            writer.append(part)
    return writer.shards


@pytest.mark.parametrize(("vocab_size", "width"), [(65536, 2), (65537, 4), ((1 << 31) - 1, 4)])
def test_ids_come_back_in_the_smallest_type_that_holds_them(tmp_path, vocab_size, width):
    ids = [0, 1, 258, vocab_size - 1]
    (shard,) = write(tmp_path, ids, vocab_size)
    path = tmp_path / "train-00000.bin"
    opened = open_shard(path, tokens=4, vocab_size=vocab_size)
    assert opened[0:4].tolist() == ids
    assert opened[0:4].itemsize == width
    assert shard == {
        "file": "train-00000.bin",
        "tokens": 4,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def test_the_file_is_as_documented(tmp_path):
    write(tmp_path, [1, 258])
    content = (tmp_path / "train-00000.bin").read_bytes()
    assert content == b"JAXGPTOK" + bytes([1, 0, 0, 0, 2, 0, 0, 0, 2] + [0] * 7 + [1, 0, 2, 1])


@pytest.mark.parametrize("count", [1, 99, 100, 101, 250, 300])
def test_shards_fill_up_in_order(tmp_path, count):
    ids = (np.arange(count) * 7 % 1000).tolist()
    shards = write(tmp_path, ids)
    assert [shard["tokens"] for shard in shards[:-1]] == [100] * ((count - 1) // 100)
    parts = [
        open_shard(tmp_path / shard["file"], tokens=shard["tokens"], vocab_size=1000)[0:100]
        for shard in shards
    ]
    assert np.concatenate(parts).tolist() == ids


def test_nothing_appended_writes_nothing(tmp_path):
    assert write(tmp_path, []) == []
    assert list(tmp_path.iterdir()) == []


def test_a_shard_holds_a_token_at_least(tmp_path):
    with pytest.raises(ConfigError, match="shard_tokens must be at least 1, not 0"):
        write(tmp_path, [1], shard_tokens=0)


@pytest.mark.parametrize("bad", [-1, 1000, 1 << 16, 1 << 40])
def test_an_id_outside_the_vocabulary_is_refused_rather_than_wrapped(tmp_path, bad):
    with pytest.raises(DataError, match=rf"the id {bad}, outside its vocabulary \[0, 1000\)"):
        write(tmp_path, [1, 2, bad])


def flip(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda content: content[:-1], "has 43 bytes"),
        (lambda content: content[:-2], "has 42 bytes"),
        (lambda content: content + b"\0\0", "has 46 bytes"),
        (lambda content: content[:23], "does not begin like a token file"),
        (lambda content: b"", "does not begin like a token file"),
        (lambda content: flip(content, 0), "does not begin like a token file"),
        (lambda content: flip(content, 8), "format version 0"),
        (lambda content: flip(content, 11), "format version 16777217"),
        (lambda content: content[:8] + struct.pack(">I", 1) + content[12:], "version 16777216"),
        (lambda content: flip(content, 12), "its ids take 3 bytes"),
        (lambda content: content[:12] + b"\4" + content[13:], "its ids take 4 bytes"),
        (lambda content: flip(content, 16), "says 11 tokens"),
        (lambda content: content[:-2] + b"\xe8\x03", r"the id 1000, outside \[0, 1000\)"),
    ],
)
def test_a_damaged_shard_is_refused_before_it_is_mapped(tmp_path, damage, complaint):
    write(tmp_path, range(10))
    path = tmp_path / "train-00000.bin"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"train-00000.bin: .*{complaint}.*prepare"):
        open_shard(path, tokens=10, vocab_size=1000)


def test_a_missing_shard_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        open_shard(tmp_path / "train-00000.bin", tokens=10, vocab_size=1000)


def test_every_single_flipped_bit_changes_the_sum(tmp_path):
    (shard,) = write(tmp_path, range(10))
    path = tmp_path / "train-00000.bin"
    verify_shard(path, shard["sha256"])
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(flip(content, place))
        with pytest.raises(DataError, match="sha256"):
            verify_shard(path, shard["sha256"])


def test_tokens_beyond_31_bits_are_read_where_they_lie(tmp_path):
    count, path = 2**31 + 10_000, tmp_path / "train-00000.bin"
    ids = np.arange(1, 101, dtype="<u2")
    with open(path, "wb") as file:  # sparse: 4 GiB that take a few blocks of the disk
        file.write(struct.pack("<8sIIQ", b"JAXGPTOK", 1, 2, count))
        file.seek(24 + 2 * 2**31)
        file.write(ids.tobytes())
        file.truncate(24 + 2 * count)
    blocks = -(-path.stat().st_size // BLOCK)
    sums = np.full(blocks, zlib.crc32(bytes(BLOCK)), np.uint32)
    with open(path, "rb") as file:
        for block in (0, (24 + 2 * 2**31) // BLOCK, blocks - 1):  # all others are zeros
            file.seek(block * BLOCK)
            sums[block] = zlib.crc32(file.read(BLOCK))
    shard = open_shard(path, tokens=count, vocab_size=1000, sums=sums)
    split = TokenSplit((shard, np.arange(50)), num_bytes=1, num_documents=1)
    assert len(split) == count + 50
    assert split.read(2**31 - 2, 2**31 + 3).tolist() == [0, 0, 1, 2, 3]
    assert split.read(count - 1, count + 2).tolist() == [0, 0, 1]
    windows = SlidingWindows(split, 8, 4)
    last = windows.window(np.array([2**29 + 2, len(windows) - 1]))
    assert last.inputs[0].tolist() == list(range(9, 17))
    assert last.targets[1].tolist() == list(range(41, 49))
    order = windows.indices(2**40, 64, seed=0)
    assert order.max() > 2**28
    assert permute(np.arange(2**40 - 3, 2**40), 2**40, seed=0, epoch=1).max() > 2**31
    with open(path, "r+b") as file:
        file.seek(24 + 2 * (2**31 + 50))
        file.write(b"\xff")
    reopened = open_shard(path, tokens=count, vocab_size=1000, sums=sums)
    with pytest.raises(DataError, match="have changed"):
        reopened[2**31 : 2**31 + 5]
