"""Every job in two processes: fine-tuning, mixtures, tensor, Muon and replay as in one."""

import json
import shutil

import numpy as np
import pytest
from commands_of_runs import end, launched, losses

pytestmark = pytest.mark.whole_run

SHAPE = "--log-every 1 --num-layers 2 --num-heads 2 --embed-dim 32 --warmup-steps 2 --batch-size 8"
SMALL = (
    f"{SHAPE} --evaluation-batches 2 --sample-tokens 8 --steps 10 --checkpoint-every 5"
).split()
TUNING = {
    "instructions": ["instructions", "--template", "phi"],
    "adapters": ["instructions", "--template", "phi", "--trained", "lora", "--rank", "2"],
    "preferences": ["preferences"],
    "reference": ["preferences", "--reference", "model"],
    "classifier": ["classifier"],
}
PRETRAINING = {
    "tensor": ["--mesh", "tensor=2"],
    "muon": ["--mesh", "fsdp=2", "--optimizer", "muon"],
    "mixture": ["--data", "sums.txt=0.7", "words.txt=0.3", "--tokenizer", "bytes"],
}


def record(i):
    asked = {"instruction": f"What is {i} plus 1?", "input": "", "output": str(i + 1)}
    labelled = {"text": f"{('hello you', 'win money')[i % 2]} {i}", "label": str(i % 2)}
    return asked | labelled | {"chosen": str(i + 1), "rejected": str(i)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("jobs")
    (place / "records.jsonl").write_text("".join(json.dumps(record(i)) + "\n" for i in range(64)))
    for name, text in (
        ("sums", "{0} and 1 are more than {0}.\n"),
        ("words", "Number {0} said so.\n"),
    ):
        (place / f"{name}.txt").write_text("".join(map(text.format, range(500))))
    return place


@pytest.fixture(scope="module")
def base(place):
    words = ["--stories-bytes", 60_000, "--tokenizer", "bpe:300", "--context-length", 128]
    end("train", "tiny", "--out", place / "base", *SMALL, *words)
    return place / "base"


def both(place, name, *words, devices=1):
    """The losses of a command in one process and in two."""
    runs = [place / f"{name}-{count}" for count in (1, 2)]
    end(*words, "--out", runs[0], devices=devices)
    launched(2, *words, "--out", runs[1])
    return runs[1], *map(losses, runs)


@pytest.mark.parametrize("name", TUNING)
def test_fine_tuning_in_two_processes_follows_one(base, place, name):
    words = ["--init-from", base, "--data", place / "records.jsonl", "--epochs", 2]
    words += ["--batch-size", 4, "--log-every", 1]
    _, one, two = both(place, name, "finetune", *TUNING[name], *words)
    assert len(one) > 20
    np.testing.assert_allclose(two, one, rtol=1e-5)


@pytest.mark.parametrize("name", PRETRAINING)
def test_pretraining_in_two_processes_follows_two_devices(place, name, monkeypatch):
    monkeypatch.chdir(place)
    words = ["train", "tiny", *SMALL, "--context-length", 64, *PRETRAINING[name]]
    if name != "mixture":
        words += ["--stories-bytes", 60_000]
    run, one, two = both(place, name, *words, devices=2)
    assert len(one) == 10
    np.testing.assert_allclose(two, one, rtol=1e-6)
    before = shutil.copytree(run, place / f"{name}-before")
    out, _ = end(*words, "--out", run, "--replay", 7, devices=2)
    assert out.rstrip().endswith("all numbers of step 7 are finite")
    assert losses(run).tolist() == losses(before).tolist()
