"""Pretraining, as a job of `run_job`: text, a new model or given weights, the next token's loss."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxgpt.config import ModelConfig, TrainConfig
from jaxgpt.data.batches import SlidingWindows
from jaxgpt.data.corpus import open_corpus
from jaxgpt.data.mixed_windows import MixedWindows
from jaxgpt.data.mixture import Dataset
from jaxgpt.data.named_text import Progress
from jaxgpt.data.tokens import TokenDataset
from jaxgpt.errors import CheckpointError, ConfigError, DataError, ResourceError
from jaxgpt.hosts.group import this_group
from jaxgpt.model.layers import Params
from jaxgpt.model.parameters import count_parameters, init_params
from jaxgpt.model.schema import rows_of
from jaxgpt.run_config import RunOptions
from jaxgpt.tokenization.tokenizer import Tokenizer
from jaxgpt.training.checkpoint import save
from jaxgpt.training.device_tokens import batch_source
from jaxgpt.training.evaluation import validation
from jaxgpt.training.fits import check_step
from jaxgpt.training.loss import Loss, pretraining_loss
from jaxgpt.training.memory import check_memory
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.own_parts import OwnBlock, check_loss, own_loss, use_block
from jaxgpt.training.plots import plot_losses
from jaxgpt.training.precision import settle_precision
from jaxgpt.training.report import Reporter
from jaxgpt.training.run import PICTURE, Job, RunResult, run_job
from jaxgpt.training.run_card import (
    entropy_per_token,
    headline,
    sources_seen,
    write_run_card,
)
from jaxgpt.training.run_contents import TOKENS, trained_on
from jaxgpt.training.run_state import Start, begin, resume, state_template
from jaxgpt.training.step import TrainState, init_state

Sampler = Callable[[TrainConfig, Params, Tokenizer], str]
"""What a model writes: a sample of text from a config, its parameters and the tokenizer."""

InitialParams = Callable[[ModelConfig], Params]
"""What a run begins with where `init_from` names a folder: float32 parameters of that shape."""


def pretrain(
    config: TrainConfig,
    run: str | Path,
    options: RunOptions | None = None,
    *,
    command: str = "",
    sampler: Sampler | None = None,
    initial_params: InitialParams | None = None,
    loss_fn: Callable[..., Loss] | None = None,
    block: OwnBlock = None,
    progress: Progress = lambda what, done, total: None,
) -> RunResult:
    """Train a GPT as `config` says and leave the checkpoints, curves and numbers in folder `run`.

    The same call on the same folder goes on from the newest checkpoint and ends with the same
    parameters, bit for bit, as a call that was never interrupted on that kind of device.
    `initial_params` is called only where `config.init_from` is set and the run begins.

    `loss_fn` stands in place of `next_token_loss`, in training and in the validation loss. It takes
    parameters, a batch of (inputs, targets), each (B, T), and a random key for dropout or None, and
    returns the summed loss and the number of targets (`LossFunction`). If it has an argument
    `config`, that is the run's, whose vocabulary is settled and whose dropout may be traced.
    `block` stands in place of the standard block. Give the same where the run goes on. Raises a
    JaxgptError, before anything is written, if the config, the data, the folder or the loss will
    not do.
    """
    folder, options = Path(run), options or RunOptions()
    config = settle_precision(config, folder, options)
    config = config if block is None else use_block(config, block)
    open_job = job_opener(
        *(config, folder, options, loss_fn, initial_params),
        command=command,
        sampler=sampler,
        progress=progress,
    )
    return run_job(folder, config, options, config, open_job)[1]


def job_opener(
    config: TrainConfig,
    folder: Path,
    options: RunOptions,
    loss_fn: Callable[..., Loss] | None,
    initial_params: InitialParams | None,
    *,
    command: str = "",
    sampler: Sampler | None = None,
    progress: Progress,
    tokens: Path | None = None,
    until: int | None = None,
) -> Callable[[Mesh], Job]:
    """What makes the job of `pretrain`, with the tokens in `tokens` or in the folder's own place.

    With `until`, the job begins at no later step than that.
    """
    write = sampler and (lambda config, tokenizer, state: sampler(config, state.params, tokenizer))
    make_loss = pretraining_loss if loss_fn is None else partial(own_loss, loss_fn)
    # The tokenizer may not be known yet; what is too much without a vocabulary is too much.
    shape = replace(config.model, vocab_size=config.model.vocab_size or 1)
    check_memory(shape, config.axes.sharing, optimizer=config.optimizer)

    def open_job(mesh: Mesh) -> Job:
        with this_group().first_alone("tokens"):
            dataset, tokenizer = open_corpus(
                config.data,
                tokens or folder / TOKENS,
                verify=options.verify_data,
                expected=None if options.allow_data_change else trained_on(folder),
                progress=progress,
            )
        settled = fit_vocabulary(config, tokenizer)
        _check_step(settled, tokenizer, mesh, loss_fn)
        windows, held_out = split_windows(settled, dataset)
        shapes = jax.eval_shape(partial(_initial_params, settled), 0)
        template, fingerprint = state_template(shapes, settled, mesh), dataset.fingerprint

        def keep(state: TrainState, rows: int, loss: float | None) -> None:
            save(folder, state, settled, tokenizer, fingerprint, rows=rows, validation_loss=loss)

        start = resume(folder, template, settled, fingerprint, options, until=until)
        start = start or Start(_begin(settled, template, initial_params))
        measure = validation(settled, dataset, held_out, mesh, make_loss)

        def evaluate(state: TrainState) -> dict[str, float]:
            rows = start.rows_at(int(state.step), settled.batch_size)
            return measure(state) | sources_seen(settled, dataset, rows)

        return Job(
            settled,
            start,
            template,
            make_loss,
            batch_source(windows, settled.batch_size, settled.seed, mesh),
            evaluate=evaluate,
            save=keep,
            publish=partial(_publish, settled, folder, dataset, command),
            headline=partial(headline, settled, dataset, tokenizer),
            sample=write and partial(write, settled, tokenizer),
        )

    return open_job


def fit_vocabulary(config: TrainConfig, tokenizer: Tokenizer) -> TrainConfig:
    """`config` with the tokenizer's number of ids, if open; raises ConfigError if it has fewer."""
    size = config.model.vocab_size or tokenizer.vocab_size
    if size < tokenizer.vocab_size:
        raise ConfigError(
            f"vocab_size is {size}, but tokenizer {tokenizer.name} has {tokenizer.vocab_size} ids; "
            f"set --vocab-size to {tokenizer.vocab_size} or more, or 0 for that number"
        )
    return replace(config, model=replace(config.model, vocab_size=size))


def _check_step(
    config: TrainConfig, tokenizer: Tokenizer, mesh: Mesh, loss_fn: Callable[..., Loss] | None
) -> None:
    """Raise what would end the run later, once the vocabulary is known."""
    check_memory(config.model, config.axes.sharing, optimizer=config.optimizer)
    check_step(config, mesh.size)
    if loss_fn is not None:
        check_loss(loss_fn, config)
    with _about("sample_prompt"):
        tokenizer.encode(config.sample_prompt)


def split_windows(config: TrainConfig, dataset: Dataset) -> tuple[SlidingWindows, SlidingWindows]:
    """Those to train on, and those to measure on."""
    with _about("the train split"):
        windows = _windows(config, dataset, "train", config.data.stride or None)
        windows.check_batch_size(config.batch_size)
    with _about("the validation split"):
        return windows, _windows(config, dataset, "validation", config.evaluation_stride or None)


def _windows(
    config: TrainConfig, dataset: Dataset, split: str, stride: int | None
) -> SlidingWindows:
    cut = partial(SlidingWindows, context_length=config.model.context_length, stride=stride)
    if isinstance(dataset, TokenDataset):
        return cut(dataset.split(split))
    parts = {}
    for name, source in dataset.datasets.items():
        with _about(name):
            parts[name] = cut(source.split(split))
    return MixedWindows(parts, dataset.counts)


@contextmanager
def _about(subject: str) -> Iterator[None]:
    """Let a DataError say what it is about."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{subject}: {error}") from None


def _initial_params(config: TrainConfig, seed: Any) -> Params:
    params_key, _ = jax.random.split(jax.random.key(seed))
    return init_params(config.model, params_key)


def _begin(
    config: TrainConfig, template: TrainState, initial_params: InitialParams | None
) -> TrainState:
    if config.init_from:
        return begin(_read_params(config, template, initial_params), config, template)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
    return jax.jit(partial(initial_state, config), out_shardings=shardings)(np.uint32(config.seed))


def initial_state(config: TrainConfig, seed: Any) -> TrainState:
    """The state at the seed, an argument: in the program, another would compile another."""
    optimizer = make_optimizer(config.optimizer, config.steps, rows_of(config.model))
    return init_state(_initial_params(config, seed), optimizer)


def _read_params(
    config: TrainConfig, template: TrainState, initial_params: InitialParams | None
) -> Params:
    if initial_params is None:
        raise ConfigError(
            f"init_from is {config.init_from}, but nothing reads it; pass pretrain initial_params"
        )
    params = initial_params(config.model)
    found, wanted = (
        jax.tree.map(lambda leaf: f"{leaf.dtype} {leaf.shape}", tree)
        for tree in (params, template.params)
    )
    if found != wanted:
        raise CheckpointError(f"{config.init_from} holds other arrays than the model has")
    return params


def _publish(
    config: TrainConfig,
    folder: Path,
    dataset: Dataset,
    command: str,
    reporter: Reporter,
    rows: int,
) -> None:
    """The picture and the card of the run so far; neither is worth the end of a run."""
    if not this_group().is_first:
        return
    size, data = count_parameters(config.model), ", ".join(config.data.data)
    title = f"{folder.absolute().name}: a GPT of {size:,} parameters, trained on {data}"
    try:
        plot_losses(reporter.records, folder / PICTURE, title, entropy_per_token(dataset))
        write_run_card(folder, config, dataset, reporter.records, command, rows=rows)
    except (OSError, ResourceError) as error:
        reporter.say(f"warning: loss.png and README.md of {folder} could not be written: {error}")
