"""A pretraining run from its config to its last checkpoint: all that `fit` needs, put together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxgpt.config import ModelConfig, RunOptions, TrainConfig
from jaxgpt.data.batches import SlidingWindows
from jaxgpt.data.corpus import Progress, open_corpus
from jaxgpt.data.tokens import TokenDataset
from jaxgpt.errors import CheckpointError, ConfigError, DataError, ResourceError
from jaxgpt.model.layers import Params
from jaxgpt.model.parameters import count_parameters, init_params
from jaxgpt.tokenization.tokenizer import Tokenizer
from jaxgpt.training.checkpoint import save
from jaxgpt.training.compiled_step import make_step
from jaxgpt.training.completion import complete
from jaxgpt.training.device_tokens import batch_source
from jaxgpt.training.fits import check_step
from jaxgpt.training.headline import headline
from jaxgpt.training.loop import Hooks, fit
from jaxgpt.training.loss import Loss, pretraining_loss
from jaxgpt.training.memory import check_memory
from jaxgpt.training.mesh import make_mesh
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.overfitting import validation_loss
from jaxgpt.training.own_loss import check_loss, own_loss
from jaxgpt.training.plots import plot_losses
from jaxgpt.training.profile import profiling
from jaxgpt.training.report import Reporter
from jaxgpt.training.run_card import (
    CARD,
    entropy_per_token,
    last_value,
    write_run_card,
)
from jaxgpt.training.run_contents import TOKENS, trained_on
from jaxgpt.training.run_folder import claim
from jaxgpt.training.run_state import (
    Start,
    begin,
    check_attention,
    resume,
    state_template,
)
from jaxgpt.training.step import TrainState, init_state
from jaxgpt.training.stop import StopSignal
from jaxgpt.training.validation import validation

PICTURE = "loss.png"
PROFILE = "profile"

Sampler = Callable[[TrainConfig, Params, Tokenizer], str]
"""What a model writes: a sample of text from a config, its parameters and the tokenizer."""

InitialParams = Callable[[ModelConfig], Params]
"""What a run begins with where `init_from` names a folder: float32 parameters of that shape."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended: the state, the records of metrics.jsonl, and the signal that stopped it."""

    state: TrainState
    config: TrainConfig
    records: list[dict[str, Any]]
    signal: int | None = None


def pretrain(
    config: TrainConfig,
    run: str | Path,
    options: RunOptions | None = None,
    *,
    command: str = "",
    sampler: Sampler | None = None,
    initial_params: InitialParams | None = None,
    loss_fn: Callable[..., Loss] | None = None,
    progress: Progress = lambda what, done, total: None,
) -> RunResult:
    """Train a GPT as `config` says and leave the checkpoints, curves and numbers in folder `run`.

    The same call on the same folder goes on from the newest checkpoint and ends with the same
    parameters, bit for bit, as a call that was never interrupted on that kind of device.
    `initial_params` is called only where `config.init_from` is set and the run begins.

    `loss_fn` stands in place of `next_token_loss`, in training and in the validation loss. It takes
    parameters, a batch of (inputs, targets), each (B, T), and a random key for dropout or None, and
    returns the summed loss and the number of targets (`LossFunction`). If it has an argument
    `config`, that is the run's, whose vocabulary is settled and whose dropout may be traced. Give
    the same where the run goes on.

    Raises:
        JaxgptError: before anything is written, if the config, the data, the folder or the loss
            will not do.
    """
    run, options = Path(run), options or RunOptions()
    mesh = make_mesh(config)
    make_loss = pretraining_loss if loss_fn is None else partial(own_loss, loss_fn)
    check_attention(config, mesh)
    # The tokenizer may not be known yet; what is too much without a vocabulary is too much.
    shape = replace(config.model, vocab_size=config.model.vocab_size or 1)
    check_memory(shape, config.fsdp, optimizer=config.optimizer)
    with claim(run, config, options):
        dataset, tokenizer = open_corpus(
            config.data,
            run / TOKENS,
            verify=options.verify_data,
            expected=None if options.allow_data_change else trained_on(run),
            progress=progress,
        )
        config = _settle_vocabulary(config, tokenizer)
        check_memory(config.model, config.fsdp, optimizer=config.optimizer)
        check_step(config, mesh.size)
        if loss_fn is not None:
            check_loss(loss_fn, config)
        with _about("sample_prompt"):
            tokenizer.encode(config.sample_prompt)  # may be impossible; better to know it now
        length, stride = config.model.context_length, config.data.stride or None
        with _about("the train split"):
            windows = SlidingWindows(dataset.split("train"), length, stride)
            windows.check_batch_size(config.batch_size)
        with _about("the validation split"):
            held_out = SlidingWindows(
                dataset.split("validation"), length, config.evaluation_stride or None
            )
        start = _begin_or_resume(config, run, options, dataset, mesh, initial_params)
        state, rows_at = start.state, partial(start.rows_at, batch_size=config.batch_size)
        write = sampler and (lambda state: sampler(config, state.params, tokenizer))

        def keep(state: TrainState, reporter: Reporter) -> None:
            step = int(state.step)
            loss = validation_loss(reporter.records, step)
            data = dataset.fingerprint
            save(run, state, config, tokenizer, data, rows=rows_at(step), validation_loss=loss)

        def hooks(reporter: Reporter) -> Hooks:
            return Hooks(
                evaluate=validation(config, dataset, held_out, mesh, make_loss),
                save=partial(keep, reporter=reporter),
                publish=lambda: _publish(config, run, dataset, reporter, command, rows_at),
                sample=write,
            )

        if start.step >= config.steps:
            records = complete(run, state, config, hooks, (PICTURE, CARD), samples=bool(sampler))
            return RunResult(state, config, records)
        reporter = Reporter(run, config.steps, int(state.step))
        for line in headline(config, dataset, tokenizer, rows_at(config.steps)):
            reporter.say(line)
        step_fn = make_step(config, mesh, make_loss)
        batches = batch_source(windows, config.batch_size, config.seed, mesh)
        with (
            StopSignal() as stop,
            profiling(step_fn, options.profile, run / PROFILE, reporter) as step_fn,
        ):
            state = fit(
                state,
                config,
                step_fn=step_fn,
                batch_at=lambda step: batches(rows_at(step)),
                hooks=replace(hooks(reporter), stopped=lambda: stop.number is not None),
                reporter=reporter,
            )
        reporter.close()
        return RunResult(state, config, reporter.records, stop.number)


def _settle_vocabulary(config: TrainConfig, tokenizer: Tokenizer) -> TrainConfig:
    size = config.model.vocab_size or tokenizer.vocab_size
    if size < tokenizer.vocab_size:
        raise ConfigError(
            f"vocab_size is {size}, but tokenizer {tokenizer.name} has {tokenizer.vocab_size} ids; "
            f"set --vocab-size to {tokenizer.vocab_size} or more, or 0 for that number"
        )
    return replace(config, model=replace(config.model, vocab_size=size))


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


def _template(config: TrainConfig, mesh: Mesh) -> TrainState:
    return state_template(jax.eval_shape(partial(_initial_params, config), 0), config, mesh)


def _initial_state(config: TrainConfig, seed: Any) -> TrainState:
    """The state at the seed, an argument: in the program, another would compile another."""
    optimizer = make_optimizer(config.optimizer, config.steps)
    return init_state(_initial_params(config, seed), optimizer)


def _begin_or_resume(
    config: TrainConfig,
    run: Path,
    options: RunOptions,
    dataset: TokenDataset,
    mesh: Mesh,
    initial_params: InitialParams | None,
) -> Start:
    template = _template(config, mesh)
    if start := resume(run, template, config, dataset.fingerprint, options):
        return start
    if config.init_from:
        return Start(begin(_read_params(config, template, initial_params), config, template))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
    initial_state = jax.jit(partial(_initial_state, config), out_shardings=shardings)
    return Start(initial_state(np.uint32(config.seed)))


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
    run: Path,
    dataset: TokenDataset,
    reporter: Reporter,
    command: str,
    rows_at: Callable[[int], int],
) -> None:
    """The picture and the card of the run so far; neither is worth the end of a run."""
    size, data = count_parameters(config.model), ", ".join(config.data.data)
    title = f"{run.absolute().name}: a GPT of {size:,} parameters, trained on {data}"
    try:
        plot_losses(reporter.records, run / PICTURE, title, entropy_per_token(dataset))
        rows = rows_at(last_value(reporter.records, "step", 0))
        write_run_card(run, config, dataset, reporter.records, command, rows=rows)
    except (OSError, ResourceError) as error:
        reporter.say(f"warning: loss.png and README.md of {run} could not be written: {error}")
