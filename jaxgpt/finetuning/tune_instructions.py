"""Conversations and a pretrained model -> a model that answers, in a run's folder."""

import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax

from jaxgpt.errors import ConfigError
from jaxgpt.finetuning.batching import Rows
from jaxgpt.finetuning.checks import check_held_out, check_run
from jaxgpt.finetuning.instructions import (
    conversation_rows,
    encode_prompt,
    end_of_text,
    read_conversations,
)
from jaxgpt.finetuning.lora import fingerprint
from jaxgpt.finetuning.packing import packed_rows
from jaxgpt.finetuning.settings import InstructionConfig, TuningConfig
from jaxgpt.finetuning.splits import split
from jaxgpt.finetuning.templates import OF_TOKENIZER, PromptTemplate, Turn, choose_template
from jaxgpt.finetuning.tuning import TuningJob, TuningResult, data_fingerprint, train_config, tune
from jaxgpt.finetuning.vocabulary import grow_vocabulary, has_special_markers
from jaxgpt.generation.decoding import generate
from jaxgpt.generation.settings import SamplingConfig
from jaxgpt.model.layers import Params
from jaxgpt.run_config import FolderOptions
from jaxgpt.tokenization.tokenizer import Tokenizer, ends_of
from jaxgpt.training.checkpoint import LoadedModel
from jaxgpt.training.evaluation import total_loss
from jaxgpt.training.loss import pretraining_loss
from jaxgpt.training.mesh import batch_sharding, make_mesh, on_mesh
from jaxgpt.training.plots import LOSSES, Panel
from jaxgpt.training.precision import settle_precision
from jaxgpt.training.step import eval_step

_SAMPLE_TOKENS = 128
_PACKED = 1024  # tokens of a packed row, where the context is longer and no text is


def tune_instructions(
    run: str | Path,
    config: InstructionConfig,
    options: FolderOptions,
    base: LoadedModel,
    *,
    command: str = "",
) -> TuningResult:
    """Teach `base` to answer, as the conversations of `config` do, in folder `run`.

    Raises a JaxgptError before anything is written if the data, the settings or the folder will not
    do.
    """
    # Where it was tuned with another template than the tokenizer's, that is taken by name alone.
    keeps = base.task.get("template", OF_TOKENIZER) == OF_TOKENIZER
    name, template = choose_template(config.template or ("" if keeps else "alpaca"), base.tokenizer)
    config = replace(config, template=name)
    if config.special_tokens == "auto":
        config = replace(config, special_tokens=config.template == "chat")
    config = settle_precision(config, run, options)
    check_run(run, config, options)
    origin = fingerprint(base.params)
    warn_of_other_template(base, config.template)
    if config.special_tokens:
        base = _with_markers(base, template, config)
    training, held_out, data = read_parts(config, read_conversations, lambda item: item.turns)
    make_rows = partial(
        conversation_rows,
        template=template,
        tokenizer=base.tokenizer,
        context_length=base.config.context_length,
        mask_prompt=config.mask_prompt,
        too_long=config.too_long,
    )
    single, watched = make_rows(training), make_rows(held_out)
    rows: Rows[Any, Any] = single
    if config.packing:
        padding = end_of_text(base.tokenizer)
        width = min(base.config.context_length, max(_PACKED, *map(len, single.examples)))
        rows = packed_rows(single.examples, width=width, padding=padding)
    train = train_config(config, base, len(rows))
    mesh = make_mesh(train)
    batch_size = config.batch_size // config.gradient_accumulation
    packed = f" in {len(rows):,} rows" if config.packing else ""
    measure = jax.jit(on_mesh(partial(eval_step, loss_fn=pretraining_loss(train)), mesh))

    def watch(params: Params) -> dict[str, float]:
        batches = watched.in_order(batch_size)
        nats, count = total_loss(measure, params, batches, batch_sharding(mesh))
        return {"validation_loss": nats / count}

    job = TuningJob(
        make_loss=pretraining_loss,
        rows=rows,
        measure=watch,
        task={"kind": "instructions", "template": config.template},
        data=data,
        panels=[Panel("loss (nats per token)", LOSSES, "log")],
        sample=answer_of(base, template, held_out[0].prompt),
        facts={
            "template": config.template,
            "records": f"{len(single):,} to train{packed}, {len(watched):,} to watch",
        },
    )
    return tune(run, config, options, base, train, job, origin, command=command)


def read_parts(
    config: TuningConfig, read: Callable[..., list[Any]], content: Callable[[Any], Hashable]
) -> tuple[list[Any], list[Any], str]:
    """What is trained on, what it is watched with, and the fingerprint of both.

    The second are files of its own, or a share of the data: records with the same prompt go to one
    side, whatever their answers. `content` is what makes two records the same. Raises DataError as
    `read`, `split` and `check_held_out` do.
    """
    training, share = read(config.data, strict=config.strict), config.validation_fraction
    if config.validation:
        held_out = read(config.validation, strict=config.strict)
        check_held_out("--validation", list(map(content, held_out)), map(content, training))
    else:
        training, held_out = split(
            training,
            lambda item: "\0".join(turn.text for turn in item.prompt),
            seed=config.seed,
            fractions=(1 - share, share),
        )
    return training, held_out, data_fingerprint(map(content, training), map(content, held_out))


def _with_markers(
    base: LoadedModel, template: PromptTemplate, config: InstructionConfig
) -> LoadedModel:
    names = template.special_tokens
    if not names:
        raise ConfigError(
            f"template {config.template} has no markers to be tokens; leave special_tokens out, or "
            "take chat or phi"
        )
    if config.trained != "all" and not has_special_markers(template, base.tokenizer):
        raise ConfigError(
            f"special_tokens adds rows to the vocabulary, which --trained {config.trained} would "
            "leave as they begin; set --trained all, or --no-special-tokens, where a user's text "
            "can write the markers too"
        )
    return grow_vocabulary(base, names, seed=config.seed)


def warn_of_other_template(base: LoadedModel, name: str) -> None:
    """Warn where a model is to be tuned with another template than the one that it knows."""
    known = base.task.get("template", name)
    if known != name:
        warnings.warn(
            f"the model to begin with was tuned with template {known}, not {name}; to go on with "
            f"its own, set --template {known}",
            stacklevel=3,
        )


def answer_of(
    base: LoadedModel, template: PromptTemplate, prompt: Sequence[Turn]
) -> Callable[[Params], str]:
    """A function of parameters: the last turn of the prompt, and the likeliest answer to it."""
    tokenizer: Tokenizer = base.tokenizer
    tokens = encode_prompt(prompt, template, tokenizer)[-base.config.context_length :]

    def answer(params: Params) -> str:
        (written,) = generate(
            base.config,
            params,
            [tokens],
            max_new_tokens=_SAMPLE_TOKENS,
            sampling=SamplingConfig(temperature=0.0),
            end_of_text=ends_of(tokenizer),
            vocab_size=tokenizer.vocab_size,
        )
        return f"{prompt[-1].text}\n-> {tokenizer.decode(written)}"

    return answer
