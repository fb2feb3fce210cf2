"""Turn a model of Hugging Face into a checkpoint of jaxgpt, or back.

A checkpoint made from one goes into `jaxgpt generate --checkpoint`, `jaxgpt evaluate --checkpoint`
and `jaxgpt train --init-from`. A folder made from a checkpoint goes into `AutoModelForCausalLM` of
the library transformers, and back into this command.
"""

import os
from dataclasses import dataclass
from typing import Annotated, Literal

from jaxgpt.commands import cli
from jaxgpt.commands.progress import Progress
from jaxgpt.data.atomic import check_new_folder
from jaxgpt.errors import CheckpointError
from jaxgpt.terminal import say


@dataclass(frozen=True)
class Arguments:
    """Which model, from what, to where."""

    source: Annotated[Literal["huggingface", "gpt2", "jaxgpt"], cli.named("from")]
    """huggingface, or gpt2, is a model of a family that jaxgpt has, which becomes a checkpoint;
    jaxgpt is a run's or a checkpoint's folder, which becomes a folder as Hugging Face's."""
    model: str
    """The folder; for huggingface also OWNER/NAME, such as openai-community/gpt2, which is
    downloaded."""
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
    usage = "--from huggingface --model FOLDER --out DIR"
    arguments = cli.parse(Arguments, "convert", argv, usage, description=__doc__)
    inputs, overwrite = (arguments.model, arguments.tokenizer), arguments.overwrite
    check_new_folder(arguments.out, overwrite=overwrite, inputs=inputs)

    from jaxgpt.finetuning.lora_file import check_base
    from jaxgpt.finetuning.pretrained import load_pretrained
    from jaxgpt.huggingface.weights import save_huggingface
    from jaxgpt.model.parameters import count_parameters
    from jaxgpt.training.checkpoint import save_model

    dtype = None if arguments.dtype == "same" else arguments.dtype
    found = find_model(arguments)
    check_base(found, arguments.base)
    model = load_pretrained(found, arguments.tokenizer or None, dtype, base=arguments.base)
    if arguments.source == "jaxgpt":
        parts = model.config, model.params
        save_huggingface(arguments.out, *parts, tokenizer=model.tokenizer, overwrite=overwrite)
    else:
        save_model(arguments.out, model, overwrite=overwrite)
    config = model.config
    say(
        f"model      {count_parameters(config):,} parameters, {config.num_layers} layers of "
        f"{config.num_heads} heads, width {config.embed_dim}, context {config.context_length}"
    )
    say(f"tokenizer  {model.tokenizer.name}, {model.tokenizer.vocab_size:,} ids")
    say(f"saved      {os.path.realpath(arguments.out)}")


def find_model(arguments: Arguments) -> str:
    """The model's folder, downloaded where its name is one of the hub and no folder here.

    Raises CheckpointError if the folder holds a model of the other kind than `--from` says.
    """
    from jaxgpt.finetuning.lora_file import find_adapters
    from jaxgpt.finetuning.pretrained import is_own
    from jaxgpt.huggingface.hub import fetch_model, is_hub_name
    from jaxgpt.training.checkpoint import find_checkpoint

    name = cli.checkpoint_of(arguments.model, best=arguments.best)
    if arguments.source == "jaxgpt":
        return name if find_adapters(name) else str(find_checkpoint(name))
    if is_own(name):
        raise CheckpointError(f"{name} is a checkpoint of jaxgpt; set --from jaxgpt")
    if not os.path.lexists(name) and is_hub_name(name):
        return str(fetch_model(name, progress=Progress()))
    return name
