"""A whole assistant from nothing: a model learns to write, then to answer, and then in what form.

Everything is made by the grammar of the bundled stories, so every answer is known, and how many are
right can be measured after each stage. Stories of other seeds than those that the model was trained
on are asked about.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jaxgpt.assistant.answers import write_answers
from jaxgpt.assistant.recipe import TEMPLATE, Recipe, instructions, preferring, pretraining
from jaxgpt.config import FolderOptions, RunOptions
from jaxgpt.data.story_questions import Question, conversation, preferences, questions
from jaxgpt.finetuning.templates import TEMPLATES, Turn
from jaxgpt.finetuning.tune_instructions import tune_instructions
from jaxgpt.finetuning.tune_preferences import tune_preferences
from jaxgpt.training.checkpoint import LoadedModel, load_model
from jaxgpt.training.plots import plot_stages
from jaxgpt.training.pretrain import pretrain

STAGES = ("pretrained", "instructions", "preferences")
PICTURE = "stages.png"
_ANSWER_TOKENS = 24
# The stories of seed 0 are those of pretraining.
_CONVERSATIONS, _QUESTIONS, _PREFERENCES = 1, 2, 3


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
    say: Callable[[str], None] = print,
    watch: Callable[[int | None, int, int], None] = lambda signal, step, steps: None,
) -> list[Stage]:
    """Pretrain, tune on instructions, tune on preferences, each in a folder within `run`.

    Measures after each, and leaves stages.json and stages.png. The same call goes on where it was
    stopped: `watch` is told the signal that ended a stage before its last step, and may leave.
    Raises a JaxgptError where a stage does.
    """
    run = Path(run)
    run.mkdir(exist_ok=True)
    held_out = [item for i in range(recipe.questions) for item in questions(i, seed=_QUESTIONS)]
    stages: list[Stage] = []

    def finish(name: str, model: LoadedModel) -> LoadedModel:
        stages.append(_measure(name, model, held_out))
        say(table(stages))
        return model

    say("1. pretraining: the model reads stories, and learns to write them")
    folder = run / STAGES[0]
    options = RunOptions(overwrite=overwrite)
    result = pretrain(pretraining(recipe), folder, options)
    watch(result.signal, int(result.state.step), result.config.steps)
    model = finish(STAGES[0], load_model(folder))

    say("2. instructions: it learns to answer questions about a story")
    data = _write(run / "conversations.jsonl", recipe.conversations, _told)
    tuned = tune_instructions(
        run / STAGES[1],
        instructions(recipe, str(folder), data),
        FolderOptions(overwrite=overwrite),
        model,
    )
    watch(tuned.signal, tuned.model.step, tuned.model.train_config.steps)
    model = finish(STAGES[1], tuned.model)

    say("3. preferences: it learns to answer in whole sentences")
    data = _write(run / "preferences.jsonl", recipe.preferences, _preferred)
    tuned = tune_preferences(
        run / STAGES[2],
        preferring(recipe, str(run / STAGES[1]), data),
        FolderOptions(overwrite=overwrite),
        model,
    )
    watch(tuned.signal, tuned.model.step, tuned.model.train_config.steps)
    finish(STAGES[2], tuned.model)
    _write_stages(run, stages)
    return stages


def table(stages: list[Stage]) -> str:
    """The figures of the stages so far, a line for each."""
    kinds = list(stages[0].by_kind)
    lines = [f"{'after':<14}{'exact match':>12}" + "".join(f"{kind:>11}" for kind in kinds)]
    lines[0] += f"{'sentences':>11}"
    for stage in stages:
        shares = [stage.by_kind[kind] for kind in kinds] + [stage.sentences]
        lines.append(
            f"{stage.name:<14}{stage.exact_match:>12.1%}"
            + "".join(f"{share:>11.1%}" for share in shares)
        )
    example = stages[-1].example
    lines.append(f"asked {example['question']!r} it answers {example['answer']!r}")
    return "\n".join(lines)


def _told(index: int) -> list[dict[str, Any]]:
    return [conversation(index, seed=_CONVERSATIONS)]


def _preferred(index: int) -> list[dict[str, Any]]:
    return preferences(index, seed=_PREFERENCES)


def _write(path: Path, count: int, records: Callable[[int], Iterable[dict[str, Any]]]) -> str:
    lines = (json.dumps(record) + "\n" for index in range(count) for record in records(index))
    draft = path.with_name(f".{path.name}.tmp")
    with open(draft, "w") as file:
        file.writelines(lines)
    draft.replace(path)
    return str(path)


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


def _write_stages(run: Path, stages: list[Stage]) -> None:
    (run / "stages.json").write_text(
        json.dumps([asdict(stage) for stage in stages], indent=2) + "\n"
    )
    plot_stages(
        [stage.name for stage in stages],
        {
            **{kind: [stage.by_kind[kind] for stage in stages] for kind in stages[0].by_kind},
            "all": [stage.exact_match for stage in stages],
            "in a sentence": [stage.sentences for stage in stages],
        },
        run / PICTURE,
    )
