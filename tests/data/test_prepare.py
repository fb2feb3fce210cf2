import hashlib
import json
import os

import pytest

from jaxgpt.config import DataConfig
from jaxgpt.data import prepare as prepare_module
from jaxgpt.data.corpus import is_current
from jaxgpt.data.named_text import prepare_corpus
from jaxgpt.data.prepare import prepare, prepare_stories, write_tokens
from jaxgpt.data.stories import write_stories
from jaxgpt.data.text import Document
from jaxgpt.data.tokens import TokenDataset
from jaxgpt.errors import ConfigError, DataError
from jaxgpt.tokenization.bpe import train_bpe
from jaxgpt.tokenization.tokenizer import ByteTokenizer

TEXT = "".join(f"The year {year} had {year % 9} days.\n" for year in range(200))
BYTES = ByteTokenizer()
TOKENIZER = train_bpe([TEXT], 300)


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(TEXT)
    return path


def ids(dataset, name):
    split = dataset.split(name)
    return split.read(0, len(split)).tolist()


def test_one_text_is_cut_in_two_without_an_end_of_text(tmp_path, text_file):
    dataset = prepare([text_file], TOKENIZER, tmp_path / "out")
    train, validation = (TOKENIZER.decode(ids(dataset, name)) for name in dataset.splits)
    assert train + validation == TEXT
    assert train.endswith("\n")
    assert 0.1 * len(TEXT) <= len(validation) < 0.12 * len(TEXT)
    digest = hashlib.sha256(TEXT.encode()).hexdigest()
    source = {"name": "a.txt", "bytes": len(TEXT), "sha256": digest}
    assert dataset.manifest["sources"] == [source]
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "out"]


def test_documents_end_and_are_counted(tmp_path):
    rows = [f"document {number}" for number in range(100)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    (tmp_path / "b.txt").write_text("one" * 100)
    dataset = prepare([tmp_path], TOKENIZER, tmp_path / "out")
    texts = []
    for name, split in dataset.splits.items():
        tokens = ids(dataset, name)
        assert tokens[-1] == TOKENIZER.end_of_text
        assert tokens.count(TOKENIZER.end_of_text) == split.num_documents
        texts += TOKENIZER.decode(tokens).split("<|endoftext|>")[:-1]
        assert split.num_bytes == dataset.manifest["splits"][name]["bytes"]
        assert split.num_tokens == dataset.manifest["splits"][name]["tokens"]
    assert sorted(texts) == sorted([*rows, "one" * 90, "one" * 10])


def test_the_same_text_gives_the_same_dataset(tmp_path, text_file):
    first = prepare([text_file], TOKENIZER, tmp_path / "first")
    (tmp_path / "b.md").write_text(TEXT)
    second = prepare([tmp_path / "b.md"], TOKENIZER, tmp_path / "second")
    third = prepare([text_file], BYTES, tmp_path / "third")
    assert first.fingerprint == second.fingerprint != third.fingerprint


def test_progress_counts_the_bytes_up_to_all_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxgpt.data.text.PIECE", 256)
    (tmp_path / "a.txt").write_text(TEXT)
    rows = [TEXT, "short", TEXT]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    seen = []
    prepare(
        [tmp_path],
        BYTES,
        tmp_path / "out",
        validation_fraction=0.5,
        progress=lambda done, total: seen.append((done, total)),
    )
    counts = [done for done, _ in seen]
    assert counts == sorted(counts)
    assert counts[-1] == total
    assert len(set(counts)) > 20
    assert {total for _, total in seen} == {total}


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan"), float("inf")])
def test_a_fraction_outside_its_range_is_refused(tmp_path, text_file, fraction):
    with pytest.raises(ConfigError, match="validation_fraction must lie between 0 and 1"):
        prepare([text_file], BYTES, tmp_path / "out", validation_fraction=fraction)
    with pytest.raises(ConfigError, match="validation_fraction must lie between 0 and 1"):
        prepare_stories(1000, BYTES, tmp_path / "out", validation_fraction=fraction)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.txt", "x", "train split"),
        ("a.jsonl", '{"text": "the only one"}', "split"),
        ("a.jsonl", '{"text": "the only one", "n": 1}\n', "split"),
        ("a.jsonl", '{"text": "good"}\n{"text": 3}', "must be a string"),
    ],
)
def test_what_gives_no_dataset_leaves_nothing(tmp_path, name, content, complaint):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=complaint):
        prepare([tmp_path / name], BYTES, tmp_path / "out")
    assert os.listdir(tmp_path) == [name]


def test_a_validation_file_is_held_out_whole(tmp_path, text_file):
    (tmp_path / "b.jsonl").write_text('{"body": "one"}\n{"body": "two"}\n')
    dataset = prepare(
        [text_file],
        TOKENIZER,
        tmp_path / "out",
        validation_paths=[tmp_path / "b.jsonl"],
        text_field="body",
    )
    end = [TOKENIZER.end_of_text]
    assert ids(dataset, "train") == TOKENIZER.encode(TEXT) + end
    assert ids(dataset, "validation") == [
        *TOKENIZER.encode("one"),
        *end,
        *TOKENIZER.encode("two"),
        *end,
    ]
    assert [source["name"] for source in dataset.manifest["sources"]] == ["a.txt", "b.jsonl"]


def test_one_text_with_one_to_hold_out_goes_without_an_end_of_text(tmp_path, text_file):
    (tmp_path / "b.txt").write_text("held out")
    out = tmp_path / "out"
    dataset = prepare([text_file], TOKENIZER, out, validation_paths=[tmp_path / "b.txt"])
    assert ids(dataset, "train") == TOKENIZER.encode(TEXT)
    assert ids(dataset, "validation") == TOKENIZER.encode("held out")


def test_a_change_of_either_file_is_noticed(tmp_path, text_file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.txt").write_text("held out")
    config = DataConfig(data=("a.txt",), validation_data=("b.txt",), tokenizer="bytes")
    prepare_corpus(config, tmp_path / "out", progress=lambda what, done, total: None)
    assert is_current(config, tmp_path / "out")
    (tmp_path / "b.txt").write_text("held in")
    assert not is_current(config, tmp_path / "out")


def test_an_interrupt_leaves_nothing(tmp_path, text_file):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare([text_file], BYTES, tmp_path / "out", progress=interrupt)
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_dataset_is_replaced_only_when_asked(tmp_path, text_file):
    out = tmp_path / "out"
    first = prepare([text_file], TOKENIZER, out, shard_tokens=50)
    with pytest.raises(ConfigError, match="not empty"):
        prepare([text_file], BYTES, out)
    assert TokenDataset.open(out, verify=True).fingerprint == first.fingerprint
    second = prepare([text_file], BYTES, out, overwrite=True)
    assert TokenDataset.open(out, verify=True).fingerprint == second.fingerprint
    assert sorted(os.listdir(out)) == [
        "manifest.json",
        "sums.bin",
        "tokenizer",
        "train-00000.bin",
        "validation-00000.bin",
    ]


@pytest.mark.parametrize("beside", ["manifest.json", ""])
def test_what_is_no_dataset_is_never_overwritten(tmp_path, text_file, beside):
    out = tmp_path / "out"
    out.mkdir()
    for name in filter(None, ["thesis.txt", beside]):
        (out / name).touch()
    with pytest.raises(ConfigError, match=r"will not be overwritten.*thesis\.txt"):
        prepare([text_file], BYTES, out, overwrite=True)
    assert (out / "thesis.txt").exists()


def test_both_splits_are_written_from_documents(tmp_path):
    documents = [("train", Document(text)) for text in ("one", "two")]
    documents.append(("validation", Document("three", entropy_bits=7.5)))
    dataset = write_tokens(tmp_path / "out", TOKENIZER, iter(documents))
    end = [TOKENIZER.end_of_text]
    assert ids(dataset, "train") == TOKENIZER.encode("one") + end + TOKENIZER.encode("two") + end
    assert ids(dataset, "validation") == TOKENIZER.encode("three") + end
    assert dataset.split("train").entropy_bits is None
    assert dataset.split("validation").entropy_bits == 7.5


def test_stories_run_on_and_know_their_entropy(tmp_path):
    dataset = prepare_stories(20_000, TOKENIZER, tmp_path / "out", seed=3)
    stories = list(write_stories(20_000, seed=3))
    texts = [TOKENIZER.decode(ids(dataset, name)) for name in ("train", "validation")]
    assert "".join(texts) == "".join(story.text for story in stories)
    assert 0.08 < len(texts[1]) / 20_000 < 0.12
    train, validation = dataset.split("train"), dataset.split("validation")
    assert train.num_documents + validation.num_documents == len(stories)
    assert train.entropy_bits + validation.entropy_bits == pytest.approx(
        sum(story.bits for story in stories), rel=1e-12
    )
    assert ids(dataset, "train") == TOKENIZER.encode(texts[0])


def test_a_folder_that_cannot_be_written_is_refused_before_any_reading(
    tmp_path, text_file, monkeypatch
):
    monkeypatch.setattr(prepare_module, "label_documents", lambda *_: map(pytest.fail, "x"))
    with pytest.raises(ConfigError, match="does not exist"):
        prepare([text_file], BYTES, tmp_path / "none" / "out")
