"""Preferences and a model that answers -> one that answers as preferred, in a run's folder."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
from jax.sharding import Mesh

from jaxgpt.finetuning.checks import check_run
from jaxgpt.finetuning.lora import fingerprint
from jaxgpt.finetuning.pairs import preference_rows, read_preferences, with_reference
from jaxgpt.finetuning.preferences import (
    Pairs,
    evaluate_preferences,
    pair_likelihood,
    preference_loss,
    preference_sums,
)
from jaxgpt.finetuning.settings import PreferenceTuningConfig
from jaxgpt.finetuning.templates import choose_template, tuned_template
from jaxgpt.finetuning.tune_instructions import answer_of, read_parts, warn_of_other_template
from jaxgpt.finetuning.tuning import TuningJob, TuningResult, train_config, tune
from jaxgpt.model.layers import Params
from jaxgpt.model.schema import rows_of
from jaxgpt.run_config import FolderOptions
from jaxgpt.training.checkpoint import LoadedModel
from jaxgpt.training.mesh import batch_sharding, make_mesh, on_mesh, state_shardings
from jaxgpt.training.placing import place
from jaxgpt.training.plots import LOSSES, Panel
from jaxgpt.training.precision import settle_precision

REWARDS = {"validation_chosen_reward": "chosen", "validation_rejected_reward": "rejected"}
ACCURACY = {"validation_accuracy": "validation"}


def tune_preferences(
    run: str | Path,
    config: PreferenceTuningConfig,
    options: FolderOptions,
    base: LoadedModel,
    *,
    command: str = "",
) -> TuningResult:
    """Make the chosen answers of `config`'s pairs likelier than the rejected ones, by DPO.

    The reference is `base`. Raises a JaxgptError before anything is written if the data, the
    settings or the folder will not do.
    """
    config = settle_precision(config, run, options)
    check_run(run, config, options)
    name, template = choose_template(config.template or tuned_template(base.task), base.tokenizer)
    warn_of_other_template(base, name)
    training, held_out, data = read_parts(
        config, read_preferences, lambda pair: (pair.prompt, pair.chosen, pair.rejected)
    )
    make_rows = partial(
        preference_rows,
        template=template,
        tokenizer=base.tokenizer,
        context_length=base.config.context_length,
        too_long=config.too_long,
        strict=config.strict,
    )
    rows, watched = make_rows(training), make_rows(held_out)
    train = train_config(config, base, len(rows))
    mesh = make_mesh(train)
    # A micro-batch's rows are pairs.
    batch_size = config.batch_size // config.gradient_accumulation
    about = train.model, config.preference, train.compute
    likelihood = _compiled(pair_likelihood(*about), mesh)
    shardings = state_shardings(base.params, mesh, rows_of(train.model))
    reference = partial(likelihood, place(base.params, shardings))
    if config.reference == "cached":
        rows, watched = (with_reference(part, reference, batch_size) for part in (rows, watched))
        del reference  # and with it the model, where it lay on the mesh
    else:

        def measured(pairs: Pairs) -> Pairs:
            return pairs._replace(reference=reference(pairs))

        rows, watched = rows.then(measured), watched.then(measured)
    measure = _compiled(preference_sums(*about), mesh)

    def watch(params: Params) -> dict[str, float]:
        found = evaluate_preferences(measure, params, watched.in_order(batch_size))
        names = ("loss", "margin", "accuracy", "chosen_reward", "rejected_reward")
        return {f"validation_{name}": found[name] for name in names}

    job = TuningJob(
        make_loss=lambda train: preference_loss(train.model, config.preference, train.compute),
        rows=rows,
        measure=watch,
        task=dict(base.task) | {"kind": "preferences", "template": name},
        data=data,
        panels=[
            Panel("loss (nats per pair)", LOSSES, limit=("ln 2, as it begins", math.log(2))),
            Panel("reward, validation\n(nats)", REWARDS),
            Panel("pairs whose chosen\nanswer is preferred", ACCURACY, "share"),
        ],
        unit="pairs",
        sample=answer_of(base, template, held_out[0].prompt),
        facts={"template": name, "pairs": f"{len(rows):,} to train, {len(watched):,} to watch"},
    )
    return tune(run, config, options, base, train, job, fingerprint(base.params), command=command)


def _compiled(function: Callable, mesh: Mesh) -> Callable:
    """`function` of parameters and pairs, jitted on the mesh; it lays out the pairs itself."""
    jitted, sharding = jax.jit(on_mesh(function, mesh)), batch_sharding(mesh)
    return lambda params, pairs: jitted(params, place(pairs, sharding))
