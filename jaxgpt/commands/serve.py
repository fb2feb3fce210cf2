"""Serve a model to programs and a browser, by OpenAI's interface.

MODEL is a run, a checkpoint, adapters, or a folder of Hugging Face. Programs find it at /v1, as
OpenAI's client does with `base_url`, and a browser at /. Ctrl-C stops it.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jaxgpt.commands import cli
from jaxgpt.errors import ConfigError
from jaxgpt.serving.config import ServingConfig
from jaxgpt.shell import install_extra
from jaxgpt.terminal import note, say

if TYPE_CHECKING:
    from jaxgpt.assistant.turn_encoder import TurnEncoder
    from jaxgpt.training.checkpoint import LoadedModel

KEY_VARIABLE = "JAXGPT_API_KEY"
_COMMON = ("model", "name", "template", "host", "port", "api_key", "slots", "queue", "allow_origin")


@dataclass(frozen=True)
class Arguments:
    """The model, and for whom."""

    model: cli.Positional[str]
    """The folder of a run, a checkpoint, adapters, or a model of Hugging Face."""
    base: str = ""
    """Where the model that adapters were trained beside lies now, if it was moved."""
    tokenizer: str = ""
    """The tokenizer, where a folder of Hugging Face has none; gpt2, bytes, or a folder."""
    best: bool = False
    """Take the checkpoint of the run's lowest validation loss instead of the newest."""
    name: str = ""
    """What requests call the model; by default its folder's name."""
    template: str = ""
    """alpaca, phi, chat, or tokenizer for its chat template; empty takes the one that the model was
    tuned with, else the tokenizer's, else none: without one it does not chat."""
    serving: ServingConfig = field(default_factory=ServingConfig)
    """Where, how much, for whom."""

    def __post_init__(self):
        """Refuse what could not be a part of an answer."""
        if not self.name.isprintable():
            raise ConfigError(f"name is {self.name!r}; it must be printable")


def main(argv: list[str]) -> None:
    """Bind, load, serve."""
    usage = "MODEL [--port N]"
    arguments = cli.parse(Arguments, "serve", argv, usage, common=_COMMON, description=__doc__)
    config = arguments.serving
    if not config.api_key and (key := os.environ.get(KEY_VARIABLE, "")):
        config = replace(config, api_key=key)
    try:
        from jaxgpt.serving.app import make_app
        from jaxgpt.serving.listen import bind, is_loopback, listen, url_of
    except ModuleNotFoundError as error:
        name = str(error.name).partition(".")[0]
        raise ConfigError(
            f"serving needs {name}, which is not installed: {install_extra('serve')}"
        ) from None
    bound = bind(config)  # before the model is loaded, which takes longer

    from jaxgpt.generation.prepared_params import prepare_params
    from jaxgpt.generation.text import PreparedModel
    from jaxgpt.serving.engine import Engine
    from jaxgpt.serving.served import ServedModel

    source = cli.ModelSource(
        base=arguments.base,
        init_from=arguments.model,
        tokenizer=arguments.tokenizer,
        best=arguments.best,
    )
    model = source.load()
    encoder = find_encoder(model, arguments.template, config.context_length)
    model = PreparedModel(model.config, prepare_params(model.params), model.tokenizer)
    engine = Engine(
        model, slots=config.slots, queue=config.queue, context_length=config.context_length
    )
    served = ServedModel(
        arguments.name or Path(os.path.abspath(arguments.model)).name,
        model,
        engine,
        config.context_length or model.config.context_length,
        config.slots,
        encoder,
    )
    engine.start()
    loopback = is_loopback(bound)
    warn_of_openness(config, loopback=loopback)

    def ready(stop: Callable[[], None]) -> None:
        kind = "a chat" if encoder else "texts alone; it was never tuned to answer"
        say(f"{url_of(bound)} serves {served.name} ({kind})")

    listen(make_app(served, config, loopback=loopback), config, bound, engine.close, ready)


def find_encoder(model: "LoadedModel", name: str, context_length: int) -> "TurnEncoder | None":
    """The encoder of conversations; None for a model that was never made to have any."""
    from jaxgpt.assistant.chat import find_template
    from jaxgpt.assistant.turn_encoder import TurnEncoder
    from jaxgpt.tokenization.chat_template import find_chat_template

    if not (name or model.task or find_chat_template(model.tokenizer)):
        return None
    length = context_length or model.config.context_length
    return TurnEncoder(find_template(model, name), model.tokenizer, length)


def warn_of_openness(config: ServingConfig, *, loopback: bool) -> None:
    """Say so where anybody may call."""
    if not loopback and not config.api_key:
        note(
            f"warning: host {config.host} is reached from other machines, and there is no key: "
            f"whoever finds it may use it; set {KEY_VARIABLE}"
        )
