"""Measure a model.

WHAT is text (the default): how well it predicts a text; answers: how well it answers questions with
known answers; choices: how often it finds the right ending the likeliest; judge: how often its
answers are better than others, as a judge behind a URL finds; or duplicates: which texts of a test
are nearly those of training. `jaxgpt evaluate WHAT --help` shows the options of each.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tqdm import tqdm

from jaxgpt.assistant.judge import Judge
from jaxgpt.assistant.near_duplicates import most_similar, read_texts
from jaxgpt.assistant.win_rate import read_pairs, win_rate
from jaxgpt.commands import cli
from jaxgpt.data.paths import expand_paths, is_dataset
from jaxgpt.data.sources import are_collected, read_documents
from jaxgpt.data.tokens import TokenDataset
from jaxgpt.errors import ConfigError
from jaxgpt.fields import MAX_SIZE, check_fields, check_range
from jaxgpt.files import write_file
from jaxgpt.finetuning.instructions import conversation
from jaxgpt.finetuning.records import RECORD_SUFFIXES, read_records, usable
from jaxgpt.generation.settings import MAX_NEW_TOKENS, WeightDtype
from jaxgpt.terminal import say


@dataclass(frozen=True)
class Text:
    """Measure how well a model predicts a text: loss, perplexity, bits per byte."""

    model: cli.ModelSource
    data: tuple[str, ...]
    """Files, folders or globs, as in training: one plain text, or documents with an end of text
    after each. Or a folder made by `jaxgpt prepare`, such as RUN/tokens: its held-out text."""
    text_field: str = "text"
    """The field, or column, of a record's text in files other than plain text."""
    context_length: int = 0
    """Tokens of a window; 0 takes all that the model has room for, or of one that was not
    pretrained here at most 4,096."""
    stride: int = 0
    """Tokens from one window's start to the next; fewer than the context length give each token
    more context. 0 takes that of the model's own run (--evaluation-stride), so that its held-out
    text gives the run's own figure, or what it would be over all of the text."""
    batch_size: int = 0
    """Windows at a time; 0 takes as many as the model's own run."""
    weight_dtype: WeightDtype = "stored"
    """Measure the model as generate writes with it: with its weights rounded to this."""

    def __post_init__(self):
        check_fields(self)

    def run(self) -> None:
        """Load, measure, print."""
        prepared = is_dataset(self.data)
        files = [] if prepared else expand_paths(self.data)
        from jaxgpt.model.narrow import widen
        from jaxgpt.training.evaluation import evaluate_documents, evaluate_tokens

        model = self.model.load(self.weight_dtype)
        model = replace(model, params=widen(model.params))  # for windows side by side
        sizes = ("context_length", "stride", "batch_size")
        options = {name: getattr(self, name) or None for name in sizes}
        if prepared:
            dataset = TokenDataset.open(self.data[0], tokenizer=model.tokenizer)
            result = evaluate_tokens(model, dataset.split("validation"), **options)
        else:
            result = evaluate_documents(
                model,
                read_documents(files, self.text_field),
                end_of_text=are_collected(files),
                **options,
            )
        say(f"loss           {result.loss:.4f} nats per token")
        say(f"perplexity     {result.perplexity:.3f}")
        say(f"bits per byte  {result.bits_per_byte:.4f}")
        say(f"predicted      {result.targets:,} tokens, {result.num_bytes:,} bytes")


@dataclass(frozen=True)
class Answers:
    """Measure how well a model answers: the loss of the known answers, and exact matches."""

    model: cli.ModelSource
    data: tuple[str, ...]
    """Files of records with instruction, input and output, with messages, or with conversations."""
    template: Literal["", "alpaca", "phi", "chat", "tokenizer"] = ""
    """How a conversation is written; by default as in fine-tuning, else by the tokenizer's chat
    template, else alpaca."""
    max_new_tokens: int = 64
    """Tokens of the longest answer."""
    limit: int = 0
    """Records to take, from the first on; 0 takes all."""
    batch_size: int = 32
    """Questions at a time."""
    out: str = ""
    """A .jsonl file for the records, each with the model's answer, such as for judge."""

    def __post_init__(self):
        """Refuse what would fail only after the model is loaded."""
        check_fields(self)
        check_range("max_new_tokens", self.max_new_tokens, 1, MAX_NEW_TOKENS)
        check_range("limit", self.limit, 0, MAX_SIZE)
        cli.check_output("--out", self.out, ".jsonl")
        paths = expand_paths(self.data, RECORD_SUFFIXES) if self.out else []
        if os.path.realpath(self.out) in map(os.path.realpath, paths):
            raise ConfigError(f"--out {self.out} is among the data; choose another name")

    def run(self) -> None:
        """Read, load, measure, answer, print."""
        kept = usable(read_records(self.data)[: self.limit or None], conversation)
        asked = [item for _, item in kept]
        from jaxgpt.assistant.answers import answer_loss, exact_match, write_answers
        from jaxgpt.assistant.chat import find_template

        model = self.model.load()
        template = find_template(model, self.template)
        loss, tokens = answer_loss(model, asked, template, batch_size=self.batch_size)
        answers = write_answers(
            model,
            [item.prompt for item in asked],
            template,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
        )
        share = exact_match(answers, [item.answer for item in asked])
        say(f"loss         {loss:.4f} nats per token, {tokens:,} tokens of answers")
        say(f"exact match  {share:.1%} of {len(asked):,} answers")
        if self.out:
            pairs = zip(kept, answers, strict=True)
            lines = [json.dumps(record.fields | {"answer": given}) for (record, _), given in pairs]
            write_file(self.out, "\n".join(lines) + "\n")
            say(f"the answers are in {self.out}")


@dataclass(frozen=True)
class Choices:
    """Measure how often a model finds the right ending likelier than the others (HellaSwag)."""

    model: cli.ModelSource
    data: tuple[str, ...]
    """Files of records with ctx (or ctx_a and ctx_b), endings, and label, from 0."""
    limit: int = 0
    """Records to take, from the first on; 0 takes all."""
    batch_size: int = 32
    """Endings at a time."""

    def __post_init__(self):
        check_fields(self)
        check_range("limit", self.limit, 0, MAX_SIZE)

    def run(self) -> None:
        """Read, load, measure, print."""
        from jaxgpt.assistant.choices import evaluate_choices, read_questions

        questions = read_questions(self.data)[: self.limit or None]
        result = evaluate_choices(self.model.load(), questions, batch_size=self.batch_size)
        chance = sum(1 / len(item.endings) for item in questions) / len(questions)
        say(f"acc        {result.acc:.2%} by log-probability")
        say(f"acc_norm   {result.acc_norm:.2%} by log-probability per character")
        say(f"chance     {chance:.2%}")
        say(f"questions  {result.questions:,}")


@dataclass(frozen=True)
class WinRate:
    """Measure how often answers are better than others, as a judge behind a URL finds."""

    judge: Judge
    answers: tuple[str, ...]
    """Files of records with an answer, as `jaxgpt evaluate answers --out` writes them."""
    against: tuple[str, ...] = ()
    """Files of the same questions with other answers; by default the records' own outputs."""
    limit: int = 0
    """Records to take, from the first on; 0 takes all."""

    def __post_init__(self):
        check_range("limit", self.limit, 0, MAX_SIZE)

    def run(self) -> None:
        """Read, ask, print."""
        pairs = read_pairs(self.answers, self.against)[: self.limit or None]
        result = win_rate(self.judge.compare, tqdm(pairs, unit=" pairs", disable=None))
        low, high = result.interval
        say(f"win rate    {result.rate:.1%}, 95% interval {low:.1%} to {high:.1%}")
        say(f"wins        {result.wins:,} of {result.judged:,}")
        say(f"ties        {result.ties:,}, each half a win")
        say(f"losses      {result.losses:,}")
        say(f"unreadable  {result.unreadable:,}, left out")


@dataclass(frozen=True)
class Duplicates:
    """List the texts of a test that are nearly those of training, the most similar first."""

    train: tuple[str, ...]
    """Files of records of any kind."""
    test: tuple[str, ...]
    """Files of records of any kind."""
    threshold: float = 0.8
    """The least similarity to list: from 0 (nothing shared) to 1 (the same runs)."""
    words: int = 3
    """Texts are compared by their runs of this many words."""

    def __post_init__(self):
        check_fields(self)
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold is {self.threshold}; it must be above 0 and at most 1")

    def run(self) -> None:
        """Read, compare, print."""
        found = most_similar(read_texts(self.train), read_texts(self.test), words=self.words)
        lines = [
            f"{item.similarity:.2f}  {item.test.where}  {item.train.where}  {item.test.text[:60]!r}"
            for item in sorted(found, key=lambda item: -item.similarity)
            if item.train and item.similarity >= self.threshold
        ]
        for line in lines:
            say(line)
        say(
            f"{len(lines):,} of {len(found):,} test texts ({len(lines) / len(found):.1%}) have a "
            f"training text of similarity {self.threshold} or more"
        )


_USAGE = "--checkpoint RUN --data FILE"
COMMANDS = {
    "text": (Text, _USAGE),
    "answers": (Answers, _USAGE),
    "choices": (Choices, _USAGE),
    "judge": (WinRate, "--url URL --model NAME --answers FILE"),
    "duplicates": (Duplicates, "--train FILES --test FILES"),
}


def main(argv: Sequence[str]) -> None:
    """Take the first word for what to measure; parse, and measure it."""
    usage = f"[{'|'.join(COMMANDS)}] {_USAGE}"
    cli.parse_first_word("evaluate", COMMANDS, argv, usage, __doc__).run()
