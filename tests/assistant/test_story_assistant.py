"""The whole recipe, small: three runs, their figures, and a second call that trains nothing."""

import json
from dataclasses import replace

import pytest

from jaxgpt.assistant import story_assistant
from jaxgpt.assistant.recipe import Recipe, pretraining
from jaxgpt.assistant.story_assistant import make_assistant
from jaxgpt.errors import ConfigError
from jaxgpt.presets import get_preset
from jaxgpt.training.checkpoint import load_model

pytestmark = pytest.mark.whole_run

SMALL = Recipe(steps=2, conversations=32, preferences=4, questions=2)


def small_pretraining(recipe):
    config, tiny = pretraining(recipe), get_preset("tiny")
    model = replace(tiny.model, context_length=640, num_layers=1, embed_dim=16)
    data = replace(config.data, tokenizer="bpe:400", stories_bytes=50_000)
    return replace(config, model=model, data=data, batch_size=8, evaluation_stride=0)


def test_each_stage_is_measured_and_the_last_model_can_be_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(story_assistant, "pretraining", small_pretraining)
    lines = []
    stages = make_assistant(tmp_path / "run", SMALL, say=lines.append)
    assert [stage.name for stage in stages] == ["pretraining", "instructions", "preferences"]
    assert set(stages[0].by_kind) == {"who", "where", "why", "what next"}
    written = json.loads((tmp_path / "run" / "stages.json").read_text())
    assert [stage["exact_match"] for stage in written] == [0.0, 0.0, 0.0]
    asked = (tmp_path / "run" / "questions.jsonl").read_text().splitlines()
    assert json.loads(asked[0])["output"].endswith(".")
    assert (tmp_path / "run" / "stages.png").stat().st_size > 0
    assert lines[-1].splitlines()[0].split()[:3] == ["after", "exact", "match"]

    last = load_model(tmp_path / "run" / "preferences")
    assert last.task == {"kind": "preferences", "template": "chat"}
    assert last.tokenizer.vocab_size == 402  # its markers are special tokens
    capsys.readouterr()
    assert make_assistant(tmp_path / "run", SMALL, say=lines.append) == stages
    assert capsys.readouterr().err.count("already finished") == 3


@pytest.mark.parametrize("name", ["steps", "conversations", "preferences", "questions"])
def test_a_stage_of_nothing_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name} is 1; it must be 2 or more"):
        Recipe(**{name: 1})


def test_a_shape_that_no_model_has_is_refused():
    with pytest.raises(ConfigError, match="num_heads"):
        Recipe(num_heads=3)


def test_the_shape_is_that_of_the_model():
    model = pretraining(Recipe(num_layers=1, num_heads=2, embed_dim=16)).model
    assert (model.num_layers, model.num_heads, model.embed_dim) == (1, 2, 16)
