"""A whole assistant from nothing: a model learns to write, then to answer, and then in what form.

Everything is made by the grammar of the bundled stories, so every answer is known, and how many are
right can be measured after each stage. Stories of other seeds than those that the model was trained
on are asked about.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jaxgpt import terminal
from jaxgpt.assistant.answers import write_answers
from jaxgpt.assistant.recipe import TEMPLATE, Recipe, instructions, preferring, pretraining
from jaxgpt.config_file import to_dict
from jaxgpt.data.ownership import without_draft
from jaxgpt.data.story_questions import Question, conversation, preferences, questions
from jaxgpt.errors import ConfigError
from jaxgpt.files import draft_of, write_file
from jaxgpt.finetuning.templates import TEMPLATES, Turn
from jaxgpt.finetuning.tune_instructions import tune_instructions
from jaxgpt.finetuning.tune_preferences import tune_preferences
from jaxgpt.run_config import RunOptions
from jaxgpt.training.checkpoint import LoadedModel, load_model
from jaxgpt.training.plots import plot_stages
from jaxgpt.training.pretrain import pretrain

STAGES = {
    "pretrained": "pretraining",
    "instructions": "instructions",
    "preferences": "preferences",
}
"""The folders of the three runs, and what each comes after."""
PICTURE = "stages.png"
_RECIPE = "recipe.json"
_ANSWER_TOKENS = 24
# The stories of seed 0 are those of pretraining, these of tuning, and those of 3 tell how it goes.
_CONVERSATIONS, _PREFERENCES, _WATCHED = 1, 2, 3
_QUESTIONS = 4  # and these are asked about at the end of each stage
_NUM_WATCHED = 20


@dataclass(frozen=True)
class Stage:
    """What the model of one stage answers: the share that is right, by kind and in all."""

    name: str
    exact_match: float
    by_kind: dict[str, float]
    sentences: float
    """The share of answers that are right, and in the preferred form."""
    example: dict[str, str] = field(default_factory=dict)
    """A question and the answer to it."""


def make_assistant(
    run: str | Path,
    recipe: Recipe,
    *,
    overwrite: bool = False,
    command: str = "",
    say: Callable[[str], None] = terminal.say,
    watch: Callable[[int | None, int, int], None] = lambda signal, step, steps: None,
) -> list[Stage]:
    """Pretrain, tune on instructions, tune on preferences, each in a folder within `run`.

    Measures after each, and leaves stages.json, stages.png and the records. The same call goes on
    where it was stopped: `watch` is told the signal that ended a stage before its last step, and
    may leave. Raises ConfigError if `run` cannot be made, and a JaxgptError where a stage does.
    """
    run = Path(run)
    _check_place(run)
    held_out = [item for i in range(recipe.questions) for item in questions(i, seed=_QUESTIONS)]
    files = _write_records(run, recipe, held_out)
    folders = [run / name for name in STAGES]
    options = RunOptions(overwrite=overwrite)
    stages: list[Stage] = []

    def finish(model: LoadedModel) -> None:
        stages.append(_measure([*STAGES.values()][len(stages)], model, held_out))
        say(table(stages))

    say("1. pretraining: the model reads stories, and learns to write them")
    result = pretrain(pretraining(recipe), folders[0], options, command=command)
    watch(result.signal, int(result.state.step), result.config.steps)
    model = load_model(folders[0])
    finish(model)

    say("2. instructions: it learns to answer questions about a story")
    config = instructions(recipe, str(folders[0]), files["told"], files["told_watched"])
    tuned = tune_instructions(folders[1], config, options, model, command=command)
    watch(tuned.signal, tuned.model.step, tuned.model.train_config.steps)
    finish(tuned.model)

    say("3. preferences: it learns to answer in whole sentences")
    config = preferring(recipe, str(folders[1]), files["preferred"], files["preferred_watched"])
    tuned = tune_preferences(folders[2], config, options, tuned.model, command=command)
    watch(tuned.signal, tuned.model.step, tuned.model.train_config.steps)
    finish(tuned.model)
    _write_stages(run, stages, len(held_out))
    return stages


def table(stages: list[Stage]) -> str:
    """The figures of the stages so far, a line for each."""
    kinds = list(stages[0].by_kind)
    columns = "".join(f"{name:>11}" for name in (*kinds, "sentences"))
    lines = [f"{'after':<14}{'exact match':>12}{columns}"]
    for stage in stages:
        shares = (*(stage.by_kind[kind] for kind in kinds), stage.sentences)
        columns = "".join(f"{share:>11.1%}" for share in shares)
        lines.append(f"{stage.name:<14}{stage.exact_match:>12.1%}{columns}")
    example = stages[-1].example
    lines.append(f"asked {example['question']!r} it answers {example['answer']!r}")
    return "\n".join(lines)


def _write_records(run: Path, recipe: Recipe, held_out: list[Question]) -> dict[str, str]:
    """The records of all stages as files in `run`, for other command lines to read; their paths."""
    told, watched = recipe.conversations, min(_NUM_WATCHED, recipe.preferences)
    records = {
        "told": (conversation(i, seed=_CONVERSATIONS) for i in range(told)),
        "told_watched": (conversation(i, seed=_WATCHED) for i in range(watched)),
        "preferred": _preferences(recipe.preferences, _PREFERENCES),
        "preferred_watched": _preferences(watched, _WATCHED),
        "questions": ({"instruction": item.prompt, "output": item.sentence} for item in held_out),
    }
    try:
        run.mkdir(exist_ok=True)
        # First, for by it the folder is known.
        write_file(run / _RECIPE, json.dumps(to_dict(recipe), indent=2) + "\n")
        for name, items in records.items():
            with draft_of(run / f"{name}.jsonl") as draft, open(draft, "w") as file:
                file.writelines(json.dumps(item) + "\n" for item in items)
    except OSError as error:
        raise ConfigError(f"--out {run} cannot be written ({error.strerror})") from None
    return {name: str(run / f"{name}.jsonl") for name in records}


def _check_place(run: Path) -> None:
    """Raise ConfigError if there is something in the folder and no assistant."""
    there = sorted(without_draft(path.name) for path in run.iterdir()) if run.is_dir() else []
    begun = any((run / name).is_file() for name in (_RECIPE, "pretrained/config.json"))
    if not begun and set(there) - {_RECIPE}:
        raise ConfigError(
            f"--out {run} holds {there[0]} but no assistant; name a new or an empty folder"
        )


def _preferences(count: int, seed: int) -> Iterator[dict[str, Any]]:
    return (item for index in range(count) for item in preferences(index, seed=seed))


def _measure(name: str, model: LoadedModel, asked: list[Question]) -> Stage:
    prompts = [(Turn("user", item.prompt),) for item in asked]
    answers = write_answers(model, prompts, TEMPLATES[TEMPLATE], max_new_tokens=_ANSWER_TOKENS)
    pairs = list(zip(asked, answers, strict=True))
    right: dict[str, list[bool]] = {}
    for item, answer in pairs:
        right.setdefault(item.kind, []).append(item.is_right(answer))
    found = [hit for hits in right.values() for hit in hits]
    return Stage(
        name,
        exact_match=sum(found) / len(found),
        by_kind={kind: sum(hits) / len(hits) for kind, hits in right.items()},
        sentences=sum(item.is_sentence(answer) for item, answer in pairs) / len(pairs),
        example={"question": asked[0].text, "answer": answers[0].strip()},
    )


def _write_stages(run: Path, stages: list[Stage], num_questions: int) -> None:
    found = json.dumps([asdict(stage) for stage in stages], indent=2)
    write_file(run / "stages.json", found + "\n")
    plot_stages(
        [f"after {stage.name}" for stage in stages],
        {
            **{kind: [stage.by_kind[kind] for stage in stages] for kind in stages[0].by_kind},
            "all": [stage.exact_match for stage in stages],
            "all, in a sentence": [stage.sentences for stage in stages],
        },
        run / PICTURE,
        f"Answers to {num_questions} questions about stories that the model has not read",
    )
