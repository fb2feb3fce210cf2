"""scripts/evaluate.py, from its command lines to what is printed and written."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxgpt.assistant.answers import exact_match, write_answers
from jaxgpt.assistant.judge import Judge
from jaxgpt.data.text import Document
from jaxgpt.finetuning.templates import TEMPLATES, Turn
from jaxgpt.generation.prepared_params import prepare_params
from jaxgpt.model.narrow import widen
from jaxgpt.presets import get_preset
from jaxgpt.tokenization.bpe import train_bpe
from jaxgpt.training import checkpoint
from jaxgpt.training.checkpoint import LoadedModel
from jaxgpt.training.evaluation import evaluate_documents

SCRIPTS = Path(__file__).parents[2] / "scripts"
TOKENIZER = train_bpe(["Name the hero. Who was kind? "] * 9, 270)
PROMPTS = [[Turn("user", "Who?")], [Turn("user", "Name the hero."), Turn("input", "Finn ran.")]]


@pytest.fixture(scope="module")
def model(random_params):
    tiny = get_preset("tiny")
    shape = replace(tiny.model, vocab_size=280, context_length=128, num_layers=1, tie_head=False)
    params = random_params(shape)
    params["head"]["weight"] = params["head"]["weight"] * 5
    train = replace(tiny, model=shape)
    return LoadedModel(
        shape, params, TOKENIZER, 0, train, {"kind": "instructions", "template": "phi"}
    )


@pytest.fixture(scope="module")
def answers(model):
    return write_answers(model, PROMPTS, TEMPLATES["phi"], max_new_tokens=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model, answers):
    """A model, and records whose second answer it gives."""
    folder = tmp_path_factory.mktemp("evaluate")
    checkpoint.save_model(folder / "model", model)
    second = {"instruction": "Name the hero.", "input": "Finn ran.", "output": answers[1]}
    write(folder / "questions.jsonl", {"instruction": "Who?", "output": "Finn.", "id": 7}, second)
    choice = {"ctx": "Who was", "endings": ["kind?", "the hero."], "label": 0}
    write(folder / "choices.jsonl", choice, choice | {"label": 1})
    return folder


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """`run(command)` in the folder: exit code, standard output, standard error."""
    monkeypatch.chdir(folder)
    cli, script = (
        importlib.import_module("jaxgpt.commands.cli"),
        importlib.import_module("jaxgpt.commands.evaluate"),
    )

    def run(command):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *command.split()])
        code = 0
        try:
            cli.run(script.main, command.split())
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere, bfloat16 is computed in")
def test_a_text_is_measured_with_rounded_weights(run, folder, model):
    (folder / "text.txt").write_text("Who was kind? Name the hero. " * 20)
    command = "--checkpoint model --data text.txt --context-length 32"
    stored, rounded = (run(f"{command}{more}") for more in ("", " --weight-dtype int8"))
    assert (stored[0], rounded[0], rounded[2]) == (0, 0, "")
    params = widen(prepare_params(model.params, "int8").as_params())
    params["blocks"] = jax.tree.map(lambda *parts: jnp.concatenate(parts), *params["blocks"])
    text = [Document((folder / "text.txt").read_text())]
    expected = evaluate_documents(replace(model, params=params), text, context_length=32)
    assert rounded[1].startswith(f"loss           {expected.loss:.4f} nats per token\n")
    assert rounded[1] != stored[1]


@pytest.mark.slow
def test_answers_are_measured_and_written(run, folder, answers):
    before = (folder / "questions.jsonl").read_text()
    command = "answers --checkpoint model --data questions.jsonl --max-new-tokens 12"
    code, out, err = run(f"{command} --out answers.jsonl")
    assert (code, err) == (0, "")
    count = sum(len(TOKENIZER.encode(text)) + 1 for text in ("Finn.", answers[1]))
    loss, match, written = out.splitlines()
    assert loss.startswith("loss         ")
    assert loss.endswith(f" nats per token, {count} tokens of answers")
    assert exact_match(answers, ["Finn.", answers[1]]) == 0.5
    assert match == "exact match  50.0% of 2 answers"
    assert written == "the answers are in answers.jsonl"
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert [line["answer"] for line in lines] == answers
    assert lines[0] | {"answer": ""} == json.loads(before.splitlines()[0]) | {"answer": ""}
    assert (folder / "questions.jsonl").read_text() == before


@pytest.mark.slow
def test_the_template_is_that_of_fine_tuning_unless_named(run, monkeypatch):
    written = []

    def write(model, prompts, template, **options):
        written.append((prompts, template, options["batch_size"]))
        return ["Finn."] * len(prompts)

    monkeypatch.setattr("jaxgpt.assistant.answers.write_answers", write)
    monkeypatch.setattr("jaxgpt.assistant.answers.answer_loss", lambda *_, **__: (1.0, 2))
    command = "answers --checkpoint model --data questions.jsonl --limit 1 --batch-size 3"
    assert run(command)[1].endswith("exact match  100.0% of 1 answers\n")
    with pytest.warns(UserWarning, match="was tuned with template phi, not chat"):
        assert run(f"{command} --template chat")[0] == 0
    prompts = [tuple(PROMPTS[0])]
    assert written == [(prompts, TEMPLATES["phi"], 3), (prompts, TEMPLATES["chat"], 3)]


def test_choices(run):
    code, out, err = run("choices --checkpoint model --data choices.jsonl")
    assert (code, err) == (0, "")
    # One of two labels is right, whatever the model takes the likelier ending to be.
    assert out.splitlines() == [
        "acc        50.00% by log-probability",
        "acc_norm   50.00% by log-probability per character",
        "chance     50.00%",
        "questions  2",
    ]


def test_judge(run, folder, monkeypatch):
    asked = []

    def compare(self, question, first, second):
        asked.append((self.url, self.model, question))
        return "A" if first == "good" else "B"

    monkeypatch.setattr(Judge, "compare", compare)
    write(
        folder / "a.jsonl",
        *[{"instruction": "Who?", "output": "bad", "answer": text} for text in ("good", "bad")],
    )
    code, out, err = run("judge --answers a.jsonl --url http://x/v1 --model referee")
    assert (code, err) == (0, "")
    assert asked == [("http://x/v1", "referee", "user: Who?")] * 2
    assert out.splitlines() == [
        "win rate    75.0%, 95% interval 19.8% to 97.3%",
        "wins        1 of 2",
        "ties        1, each half a win",
        "losses      0",
        "unreadable  0, left out",
    ]


def test_duplicates(run, folder):
    (folder / "train.tsv").write_text("x\tthe king set sail at dawn\ny\tno one\n")
    (folder / "test.tsv").write_text("x\tThe king set sail at noon.\ny\tNo one!\nx\telse\n")
    code, out, err = run("duplicates --train train.tsv --test test.tsv --threshold 0.6")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "1.00  test.tsv:2  train.tsv:2  'No one!'",
        "0.60  test.tsv:1  train.tsv:1  'The king set sail at noon.'",
        "2 of 3 test texts (66.7%) have a training text of similarity 0.6 or more",
    ]


@pytest.mark.parametrize("word", ["text ", ""])
def test_a_text_is_measured_by_default(run, word):
    code, out, err = run(f"{word}--checkpoint model --data questions.jsonl")
    assert (code, out) == (3, "")  # its lines have no text
    assert 'questions.jsonl:1: no field "text"' in err
