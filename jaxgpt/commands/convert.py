"""Turn a GPT-2 of Hugging Face into a checkpoint of jaxgpt, or back.

A checkpoint made from one goes into `jaxgpt generate --checkpoint`, `jaxgpt evaluate --checkpoint`
and `jaxgpt train --init-from`. A folder made from a checkpoint goes into `AutoModelForCausalLM` of
the library transformers, and back into this command.
"""

import os
from dataclasses import dataclass
from typing import Annotated, Literal

from jaxgpt.commands import cli
from jaxgpt.commands.progress import Progress
from jaxgpt.config import ModelConfig
from jaxgpt.data.atomic import check_new_folder
from jaxgpt.errors import CheckpointError
from jaxgpt.terminal import say


@dataclass(frozen=True)
class Arguments:
    """Which model, from what, to where."""

    source: Annotated[Literal["gpt2", "jaxgpt"], cli.named("from")]
    """gpt2 is a GPT-2 of Hugging Face, which becomes a checkpoint; jaxgpt is a run's or a
    checkpoint's folder, which becomes a folder as Hugging Face's."""
    model: str
    """The folder; for gpt2 also OWNER/NAME, such as openai-community/gpt2, which is downloaded."""
    out: str
    """Folder to write, new or empty."""
    dtype: Literal["same", "float32", "float16", "bfloat16"] = "same"
    """Type of the numbers in it."""
    tokenizer: str = ""
    """The tokenizer, where the folder has none; gpt2, bytes, or a folder."""
    base: str = ""
    """Where the model that adapters were trained beside lies now, if it was moved."""
    best: bool = False
    """With --from jaxgpt: take the checkpoint of the run's lowest validation loss instead of the
    newest."""
    overwrite: bool = False
    """Replace what jaxgpt wrote at `out`; a folder that holds anything else is refused."""


def main(argv: list[str]) -> None:
    """Load, write, say where."""
    arguments = cli.parse(
        Arguments, "convert", argv, "--from gpt2 --model FOLDER --out DIR", description=__doc__
    )
    check_new_folder(
        arguments.out,
        overwrite=arguments.overwrite,
        inputs=(arguments.model, arguments.tokenizer),
    )

    # Not at the top: --help and a mistyped argument are answered without waiting for JAX.
    from jaxgpt.finetuning.bases import check_base
    from jaxgpt.finetuning.pretrained import load_pretrained
    from jaxgpt.huggingface.weights import save_gpt2
    from jaxgpt.model.parameters import count_parameters
    from jaxgpt.training.checkpoint import save_model

    dtype = None if arguments.dtype == "same" else arguments.dtype
    found = find_model(arguments)
    check_base(found, arguments.base)
    model = load_pretrained(found, arguments.tokenizer or None, dtype, base=arguments.base)
    if arguments.source == "gpt2":
        save_model(arguments.out, model, overwrite=arguments.overwrite)
    else:
        save_gpt2(
            arguments.out,
            model.config,
            model.params,
            tokenizer=model.tokenizer,
            overwrite=arguments.overwrite,
        )
    say(f"model      {count_parameters(model.config):,} parameters, {shape(model.config)}")
    say(f"tokenizer  {model.tokenizer.name}, {model.tokenizer.vocab_size:,} ids")
    say(f"saved      {os.path.realpath(arguments.out)}")


def find_model(arguments: Arguments) -> str:
    """The model's folder, downloaded where its name is one of the hub and no folder here.

    Raises CheckpointError if the folder holds a model of the other kind than `--from` says.
    """
    from jaxgpt.finetuning.bases import find_adapters
    from jaxgpt.finetuning.pretrained import is_own
    from jaxgpt.huggingface.hub import fetch_gpt2, is_hub_name
    from jaxgpt.training.checkpoint import find_checkpoint

    name = cli.checkpoint_of(arguments.model, best=arguments.best)
    if arguments.source == "jaxgpt":
        return name if find_adapters(name) else str(find_checkpoint(name))
    if is_own(name):
        raise CheckpointError(f"{name} is a checkpoint of jaxgpt; set --from jaxgpt")
    if not os.path.lexists(name) and is_hub_name(name):
        return str(fetch_gpt2(name, progress=Progress()))
    return name


def shape(config: ModelConfig) -> str:
    """A model's shape in a few words."""
    return (
        f"{config.num_layers} layers of {config.num_heads} heads, width {config.embed_dim}, "
        f"context {config.context_length}"
    )
