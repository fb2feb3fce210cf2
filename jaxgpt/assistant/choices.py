"""Multiple choice: which of several endings of a text a model finds likeliest."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float32

from jaxgpt.errors import DataError
from jaxgpt.finetuning.batching import Rows, bucket_widths
from jaxgpt.finetuning.instructions import TokenRow, collate, token_row
from jaxgpt.finetuning.records import Record, read_records, usable
from jaxgpt.tokenization.tokenizer import Tokenizer, prefix_of
from jaxgpt.training.checkpoint import LoadedModel
from jaxgpt.training.evaluation import finite
from jaxgpt.training.loss import row_likelihood


@dataclass(frozen=True)
class Question:
    """The beginning of a text, its possible endings, and which of them is right, from 0."""

    context: str
    endings: tuple[str, ...]
    label: int
    where: str


class Accuracy(NamedTuple):
    """The shares of questions answered right: `acc` by log-probability, `acc_norm` per character.

    The right ending must have the largest sum of its tokens' log-probabilities, or the largest such
    sum divided by the ending's number of characters, by which a long ending has a chance. These are
    the metrics of these names in EleutherAI's lm-evaluation-harness.
    """

    acc: float
    acc_norm: float
    questions: int


def read_questions(paths: Sequence[str | Path]) -> list[Question]:
    """The records in `paths` in the form of HellaSwag (Zellers et al. 2019).

    `ctx` (or `ctx_a` and `ctx_b`) is the beginning, `endings` a list, and `label` the place of the
    right one, from 0. The text is taken as it is, white space at the ends aside; the harness puts
    HellaSwag's `activity_label` in front and takes out its marks in brackets. Raises DataError as
    `read_records` and `usable` do, and for a field that is missing or not of its kind.
    """
    return [item for _, item in usable(read_records(paths), question)]


def question(record: Record) -> Question:
    """A record as a question; see `read_questions`."""
    if "ctx" in record.fields or "ctx_a" not in record.fields:
        context = record.text("ctx")
    else:
        context = f"{record.text('ctx_a')} {record.text('ctx_b', required=False)}"
    endings = record.fields.get("endings")
    if not isinstance(endings, list) or len(endings) < 2:
        raise DataError(f'{record.where}: "endings" must be a list of two strings or more')
    names = {f"ending {number}": ending for number, ending in enumerate(endings)}
    inner = Record(names, record.where)
    texts = tuple(inner.text(name).strip() for name in names)
    label = str(record.fields.get("label")).strip()  # a number, or its digits
    if label not in map(str, range(len(texts))):
        raise DataError(
            f'{record.where}: "label" is {record.fields.get("label")!r}; it must be from 0 to '
            f"{len(texts) - 1}, the place of the right ending"
        )
    return Question(context.strip(), texts, int(label), record.where)


def evaluate_choices(
    model: LoadedModel, questions: Sequence[Question], *, batch_size: int = 32
) -> Accuracy:
    """How often the model finds the right ending likeliest; raises as `ending_likelihoods`."""
    by_sum = by_mean = 0
    found = ending_likelihoods(model, questions, batch_size=batch_size)
    for asked, nats in zip(questions, found, strict=True):
        lengths = np.array([len(ending) for ending in asked.endings])
        by_sum += int(nats.argmax() == asked.label)
        by_mean += int((nats / lengths).argmax() == asked.label)
    return Accuracy(by_sum / len(questions), by_mean / len(questions), len(questions))


def ending_likelihoods(
    model: LoadedModel, questions: Sequence[Question], *, batch_size: int = 32
) -> list[Float32[np.ndarray, " C"]]:
    """The log-probability of each ending of each question after its context, in nats.

    `batch_size` endings at a time, of like length. A context that is too long is cut on the left,
    with a warning. Raises DataError for an ending longer than the model's context, or no question;
    ConfigError for a batch size below 1; NonFiniteError for no finite log-probability.
    """
    length, tokenizer = model.config.context_length, model.tokenizer
    encoded = [row for asked in questions for row in _encode(asked, tokenizer, length)]
    if cut := sum(len(row) > length for row in encoded):
        warnings.warn(
            f"{cut} of {len(encoded)} endings follow a context that was cut on the left to "
            f"context_length {length}",
            stacklevel=2,
        )
    rows = [TokenRow(row.inputs[-length:], row.targets[-length:]) for row in encoded]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    batches = Rows(
        [rows[i] for i in order],
        partial(collate, padding=tokenizer.end_of_text or 0, widths=bucket_widths(length)),
        filler=token_row([0, 0], [False, False]),
    )
    measure = jax.jit(row_likelihood(model.config, model.train_config.compute))
    measured = [
        measure(model.params, batch.inputs, batch.targets)[0]
        for batch in batches.in_order(batch_size)
    ]
    nats = np.empty(len(rows), np.float32)
    nats[order] = np.concatenate(measured)[: len(rows)]
    finite(float(nats.sum()))
    ends = np.cumsum([len(asked.endings) for asked in questions])
    return np.split(nats, ends[:-1])


def _encode(asked: Question, tokenizer: Tokenizer, length: int) -> list[TokenRow]:
    """A row for each ending, whose targets are the ending's tokens.

    Context and ending are encoded by themselves, the space between them as the ending's: GPT-2's
    pattern cuts there anyway, and so every ending follows the same tokens.
    """
    context, rows = [*prefix_of(tokenizer), *tokenizer.encode(asked.context)], []
    for ending in asked.endings:
        tokens = tokenizer.encode(f" {ending}")
        if not 1 <= len(tokens) <= length or not context:
            raise DataError(
                f"{asked.where}: {len(context)} tokens of context and {len(tokens)} of the ending "
                f"{ending[:40]!r}; there must be some of both, and at most context_length "
                f"{length} of the ending"
            )
        learnt = [False] * len(context) + [True] * len(tokens)
        rows.append(token_row([*context, *tokens], learnt))
    return rows
