"""Conversations and a pretrained model -> a model that answers, in a run's folder."""

import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

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
from jaxgpt.finetuning.templates import TEMPLATES, Template, Turn
from jaxgpt.finetuning.tuning import (
    TuningJob,
    TuningResult,
    data_fingerprint,
    train_config,
    tune,
)
from jaxgpt.finetuning.vocabulary import grow_vocabulary, has_special_markers
from jaxgpt.generation.decoding import generate
from jaxgpt.generation.settings import SamplingConfig
from jaxgpt.model.layers import Params
from jaxgpt.run_config import FolderOptions
from jaxgpt.tokenization.tokenizer import Tokenizer, ends_of
from jaxgpt.training.checkpoint import LoadedModel
from jaxgpt.training.evaluation import total_loss
from jaxgpt.training.loss import LossFunction, pretraining_loss
from jaxgpt.training.mesh import batch_sharding, make_mesh, on_mesh
from jaxgpt.training.plots import LOSSES, Panel
from jaxgpt.training.step import eval_step

_SAMPLE_TOKENS = 128


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
    if config.special_tokens == "auto":
        config = replace(config, special_tokens=config.template == "chat")
    check_run(run, config, options)
    origin, template = fingerprint(base.params), TEMPLATES[config.template]
    warn_of_other_template(base, config.template)
    if config.special_tokens:
        base = _with_markers(base, template, config)
    training, held_out = read_parts(config, read_conversations, lambda item: item.turns)
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
        rows = packed_rows(
            single.examples,
            width=base.config.context_length,
            padding=end_of_text(base.tokenizer),
        )
    train = train_config(config, base, len(rows))
    mesh = make_mesh(train)
    batch_size = config.batch_size // config.gradient_accumulation
    job = TuningJob(
        make_loss=pretraining_loss,
        batch=lambda row: rows.batch(row, config.batch_size, seed=config.seed),
        num_rows=len(rows),
        measure=_held_out_loss(pretraining_loss(train), watched, batch_size, mesh),
        task={"kind": "instructions", "template": config.template},
        data=data_fingerprint(*([item.turns for item in part] for part in (training, held_out))),
        panels=[Panel("loss (nats per token)", LOSSES, "log")],
        sample=answer_of(base, template, held_out[0].prompt),
        facts={
            "template": config.template,
            "records": f"{len(single):,} to train"
            + (f" in {len(rows):,} rows" if config.packing else "")
            + f", {len(watched):,} to watch",
        },
    )
    return tune(run, config, options, base, train, job, origin, command=command)


def read_parts(
    config: TuningConfig, read: Callable[..., list[Any]], content: Callable[[Any], Hashable]
) -> tuple[list[Any], list[Any]]:
    """What is trained on, and what it is watched with: files of its own, or a share of the data.

    Records with the same prompt go to one side, whatever their answers; `content` is what makes two
    records the same. Raises DataError as `read`, `split` and `check_held_out` do.
    """
    records = read(config.data, strict=config.strict)
    if config.validation:
        held_out = read(config.validation, strict=config.strict)
        check_held_out("--validation", list(map(content, held_out)), map(content, records))
        return records, held_out
    share = config.validation_fraction
    training, held_out = split(
        records,
        lambda item: "\0".join(turn.text for turn in item.prompt),
        seed=config.seed,
        fractions=(1 - share, share),
    )
    return training, held_out


def _with_markers(base: LoadedModel, template: Template, config: InstructionConfig) -> LoadedModel:
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


def _held_out_loss(
    loss_fn: LossFunction, rows: Rows[Any, Any], batch_size: int, mesh: Mesh
) -> Callable[[Params], dict[str, float]]:
    measure = jax.jit(on_mesh(partial(eval_step, loss_fn=loss_fn), mesh))

    def evaluate(params: Params) -> dict[str, float]:
        batches = rows.in_order(batch_size)
        nats, count = total_loss(measure, params, batches, batch_sharding(mesh))
        return {"validation_loss": nats / count}

    return evaluate


def answer_of(
    base: LoadedModel, template: Template, prompt: Sequence[Turn]
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
