"""The command lines of fine-tuning, from records to a class, an answer, and a folder for others."""

import importlib
import json
import shlex
import shutil
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.finetuning.pretrained import load_pretrained
from jaxgpt.huggingface.weights import load_gpt2
from jaxgpt.model.gpt import GPT

pytestmark = pytest.mark.whole_run

SCRIPTS = Path(__file__).parents[2] / "scripts"
FAST = "--steps 4 --learning-rate 1e-2 --batch-size 8 --platform cpu"


@pytest.fixture
def run(base_folder, monkeypatch, capsys, tmp_path):
    """`run(command)` in the folder of the base; standard output and error."""
    monkeypatch.chdir(tmp_path)

    def run(command):
        script, *argv = shlex.split(command)
        monkeypatch.setattr(sys, "argv", [script, *argv])
        importlib.import_module(f"jaxgpt.commands.{script.removesuffix('.py')}").main(argv)
        return capsys.readouterr()

    return run


def records(path, items):
    Path(path).write_text("".join(json.dumps(item) + "\n" for item in items))


def test_a_classifier_from_a_table_to_the_class_of_a_line(run):
    lines = [
        f"{kind},{word} {i}" for i in range(16) for kind, word in (("c0", "hero"), ("c1", "sea"))
    ]
    Path("texts.csv").write_text("\n".join(["Label,Text", *lines]) + "\n")
    shown = run(f"finetune_classifier.py --init-from base --data texts.csv --trained lora {FAST}")
    out, _ = shown
    assert out.startswith("true \\ predicted  c0  c1\n")
    assert "balanced accuracy" in out
    assert "runs/classifier" in out
    scores = json.loads(Path("runs/classifier/test.json").read_text())
    assert scores["texts"] == 6
    card = Path("runs/classifier/README.md").read_text()
    assert f"| test accuracy | {scores['accuracy']:.1%} |" in card
    assert f"| test balanced accuracy | {scores['balanced_accuracy']:.1%} |" in card
    assert f"| test calibration error | {scores['calibration_error']:.3f} |" in card
    assert [f"({name}.png)" in card for name in ("loss", "confusion", "calibration")] == [True] * 3
    assert "python finetune_classifier.py --init-from base" in card

    shutil.move("base", "elsewhere")
    run_classifier = "classify.py --checkpoint runs/classifier --base elsewhere"
    name, share, text = run(f'{run_classifier} --text "hero 3"').out.rstrip("\n").split("\t")
    assert (name in ("c0", "c1"), text) == (True, "hero 3")
    assert 0.5 <= float(share) <= 1
    Path("lines.txt").write_text("hero 3\n\nsea 4\r\n")
    out = run(f"{run_classifier} --file lines.txt --all-classes").out.splitlines()
    assert [line.split("\t")[2] for line in out] == ["hero 3", "sea 4"]
    shares = [float(pair.partition("=")[2]) for pair in out[0].split("\t")[1].split()]
    assert sum(shares) == pytest.approx(1, abs=2e-4)


def test_a_label_stays_in_its_line_and_steers_no_terminal(run):
    labels = ("two\nlines", "\x1b[2J\u202e", "$\\frac")
    items = [
        {"label": label, "text": f"{n} {i}"} for i in range(12) for n, label in enumerate(labels)
    ]
    records("odd.jsonl", items)
    out, err = run(f"finetune_classifier.py --init-from base --data odd.jsonl {FAST}")
    assert out.splitlines()[0].split()[3:] == [r"\x1b[2J\u202e", r"$\frac", "two", "lines"]
    assert not {"\x1b", "\u202e"} & {*out, *err}
    line = run('classify.py --checkpoint runs/classifier --text "0\n1"').out
    assert (line.count("\n"), line.split("\t")[2]) == (1, "0\\n1\n")


def test_adapters_answer_are_tuned_further_and_leave_as_gpt2(run, base):
    records(
        "told.jsonl", [{"instruction": f"Who ran {i} times?", "output": "Finn"} for i in range(16)]
    )
    records(
        "pairs.jsonl",
        [
            {"prompt": f"Who ran {i} times?", "chosen": "Finn ran.", "rejected": "Kai"}
            for i in range(16)
        ],
    )
    chat = f"--template chat --no-special-tokens {FAST}"
    told = run(f"finetune_instructions.py --init-from base --data told.jsonl --trained lora {chat}")
    assert "chat.py --checkpoint runs/instructions" in told.out
    first, last = told.out.splitlines()[0].split()[2::2]
    assert float(last) < float(first)

    out = run(
        'generate.py --checkpoint runs/instructions --prompt "Who ran" --max-new-tokens 4'
    ).out
    assert out.startswith("Who ran")
    preferred = run(
        "finetune_preferences.py --init-from runs/instructions --data pairs.jsonl --out preferred "
        + FAST
    )
    loss = next(line for line in preferred.out.splitlines() if line.startswith("validation loss"))
    assert loss.split()[2] == "0.693147"
    assert load_pretrained("preferred").task == {"kind": "preferences", "template": "chat"}

    shutil.move("base", "moved")
    run("convert.py --from jaxgpt --model runs/instructions/adapters --base moved --out exported")
    shutil.move("moved", "base")
    config, params = load_gpt2("exported")
    merged = load_pretrained("runs/instructions")
    tokens = jnp.arange(12)[None]
    np.testing.assert_array_equal(
        GPT(config, params)(tokens), GPT(merged.config, merged.params)(tokens)
    )
    assert not np.array_equal(
        params["blocks"]["mlp"]["up"]["weight"], base.params["blocks"]["mlp"]["up"]["weight"]
    )
