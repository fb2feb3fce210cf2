"""Nothing is removed of which a listing does not prove that jaxgpt wrote it."""

import json
import os
from pathlib import Path

import jax
import pytest

from jaxgpt.data.ownership import LISTING, foreign_names, unfinished_foreign
from jaxgpt.data.prepare import prepare
from jaxgpt.finetuning.lora import init_adapters
from jaxgpt.finetuning.lora_file import save_adapters
from jaxgpt.finetuning.settings import LoraConfig
from jaxgpt.huggingface.weights import save_gpt2
from jaxgpt.tokenization.bpe import train_bpe
from jaxgpt.training.checkpoint import save_model


def write_dataset(folder, base):
    (folder.parent / "a.txt").write_text("Once upon a time.\n" * 99)
    prepare([folder.parent / "a.txt"], base.tokenizer, folder)


def write_adapters(folder, base):
    config = LoraConfig(rank=2)
    save_adapters(folder, init_adapters(base.params, config, jax.random.key(0)), config, "sum")


WRITERS = {
    "dataset": write_dataset,
    "tokenizer": lambda folder, base: train_bpe(["Once upon a time there was a king. "], 265).save(
        folder
    ),
    "checkpoint": lambda folder, base: save_model(folder, base),
    "adapters": write_adapters,
    "export": lambda folder, base: save_gpt2(
        folder, base.config, base.params, tokenizer=base.tokenizer
    ),
}


@pytest.fixture(params=WRITERS)
def written(request, base, tmp_path):
    """A folder of each kind that jaxgpt writes."""
    folder = tmp_path / request.param
    WRITERS[request.param](folder, base)
    return folder


def test_all_that_was_written_is_its_own_and_nothing_else(written):
    assert foreign_names(written) == unfinished_foreign(written) == []
    (written / "notes.txt").touch()
    (written / "photos" / "old").mkdir(parents=True)
    (written / "link").symlink_to(written / "notes.txt")
    (written / "elsewhere").symlink_to(written.parent)
    os.mkfifo(written / "pipe")
    strangers = ["elsewhere", "link", "notes.txt", "photos/old", "pipe"]
    assert foreign_names(written) == strangers
    assert set(unfinished_foreign(written)) == set(strangers) - {"photos/old"}


def test_a_link_in_the_place_of_a_file_is_not_its_own(written):
    name = next(path.name for path in written.iterdir() if path.is_file())
    (written / name).rename(written.parent / "moved")
    (written / name).symlink_to(written.parent / "moved")
    assert name in foreign_names(written)


@pytest.mark.parametrize("kind", ["checkpoint", "export"])
def test_what_was_changed_since_is_not_its_own(kind, base, tmp_path):
    WRITERS[kind](tmp_path / kind, base)
    config = tmp_path / kind / "config.json"
    config.write_text(config.read_text() + " ")
    assert foreign_names(tmp_path / kind) == ["config.json"]


@pytest.mark.parametrize("damaged", ["manifest.json", "train-00000.bin", "validation-00000.bin"])
def test_a_damaged_dataset_is_still_known(base, tmp_path, damaged):
    write_dataset(tmp_path / "data", base)
    (tmp_path / "data" / damaged).write_bytes(b"")
    assert foreign_names(tmp_path / "data") == []


@pytest.mark.parametrize(
    "record",
    [
        {"name": "a web project", "icons": []},
        {"files": {"thesis.txt": "0" * 64}, "written_by": "somebody"},
        {"files": {"thesis.txt": "0" * 64}, "written_by": "jaxgpt 1"},
        {"files": {"../thesis.txt": 0, "\0": 0, "a" * 300: 0}, "written_by": "jaxgpt 1"},
        [],
    ],
)
@pytest.mark.parametrize("listing", ["manifest.json", LISTING, "tokenizer.json", "adapters.json"])
def test_the_files_of_others_are_not_its_own(tmp_path, record, listing):
    folder = Path(tmp_path, "folder")
    folder.mkdir()
    for name in ("thesis.txt", "train-00000.bin", "adapters.safetensors", "ranks.tiktoken"):
        (folder / name).write_text("a thesis")
    (folder / listing).write_text(json.dumps(record))
    assert set(foreign_names(folder)) >= {path.name for path in folder.iterdir()} - {listing}
