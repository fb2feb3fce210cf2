"""GPT-2's `config.json`, as Hugging Face writes it, to and from a ModelConfig."""

import os
import warnings
from pathlib import Path
from typing import Any

from jaxgpt.config import BlockConfig, ModelConfig
from jaxgpt.errors import CheckpointError, ConfigError
from jaxgpt.files import read_json
from jaxgpt.model.schema import dimensions
from jaxgpt.shell import command
from jaxgpt.tokenization.tokenizer import Tokenizer
from jaxgpt.tokenization.tokenizer_json import roles

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5")
"""Endings of weight files that are not opened: to unpickle is to run what they contain."""

_GELU = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "erf"}
# Settings that jaxgpt has no counterpart for, at the one value that is what it computes.
_FIXED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def read_gpt2_config(folder: str | Path) -> ModelConfig:
    """The shape of the GPT-2 in a Hugging Face folder; what `config.json` leaves out is GPT-2's.

    The three dropout rates become one, that of the residual stream, with a warning if they differ.
    Raises CheckpointError if there is no such folder, if its `config.json` is not that of a GPT-2,
    or if it has a setting that jaxgpt has no counterpart for.
    """
    folder = Path(folder)
    check_folder(folder)
    path = folder / "config.json"
    values = read_json(path, error=CheckpointError)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, not a mapping")
    try:
        return _to_model_config(values)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None


def refuse_pickle(path: Path) -> CheckpointError:
    """What to raise at weights that are not safetensors, with the way to convert them."""
    return CheckpointError(
        f"{path}: pickle refused; convert to safetensors, where you trust the file: "
        f"AutoModelForCausalLM.from_pretrained({str(path.parent)!r}).save_pretrained('NEW_FOLDER') "
        "of the library transformers"
    )


def check_folder(folder: Path) -> None:
    """Raise CheckpointError unless `folder` is one with a `config.json`; weights are no folder."""
    # os.path says False to a name that is too long, where pathlib raises.
    if os.path.isfile(folder):
        if folder.suffix in PICKLES:
            raise refuse_pickle(folder)
        raise CheckpointError(
            f"{folder} is a file; name the folder with config.json and model.safetensors"
        )
    if not os.path.isdir(folder):
        raise CheckpointError(
            f"{folder}: no such folder; name one with config.json and model.safetensors, or fetch "
            f"a model of the hub by `{command('convert')} --from gpt2`"
        )
    if not os.path.isfile(folder / "config.json"):
        raise CheckpointError(
            f"{folder} has no config.json; name a folder with config.json and model.safetensors"
        )


def _to_model_config(values: dict[str, Any]) -> ModelConfig:
    kind = values.get("model_type")
    if kind != "gpt2":
        raise ConfigError(f"model_type is {kind!r}; only gpt2 can be read")
    for name, wanted in _FIXED.items():
        if values.get(name, wanted) is not wanted:
            raise ConfigError(f"{name} is {values[name]!r}; jaxgpt has only {wanted}")
    gelu = _typed(values, "activation_function", "gelu_new", str)
    if gelu not in _GELU:
        raise ConfigError(f"activation_function is {gelu!r}; jaxgpt has {', '.join(_GELU)}")
    context = "n_ctx" if "n_positions" not in values and "n_ctx" in values else "n_positions"
    width = _whole(values, "n_embd", 768)
    inner = None if values.get("n_inner") is None else _whole(values, "n_inner", 0)
    return ModelConfig(
        vocab_size=_whole(values, "vocab_size", 50257),
        context_length=_whole(values, context, 1024),
        num_layers=_whole(values, "n_layer", 12),
        num_heads=_whole(values, "n_head", 12),
        embed_dim=width,
        hidden_dim=0 if inner in (None, 4 * width) else inner,
        dropout=_dropout(values),
        tie_head=_typed(values, "tie_word_embeddings", True, bool),
        gelu=_GELU[gelu],  # pyright: ignore[reportArgumentType]
        norm_epsilon=_number(values, "layer_norm_epsilon", 1e-5),
    )


def _dropout(values: dict[str, Any]) -> float:
    names = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
    rates = {name: _number(values, name, 0.1) for name in names}
    if len(set(rates.values())) > 1:
        listed = ", ".join(f"{name} {rate}" for name, rate in rates.items())
        warnings.warn(f"{listed}: jaxgpt has one rate, and takes resid_pdrop's", stacklevel=2)
    return rates["resid_pdrop"]


def _whole(values: dict[str, Any], name: str, default: int) -> int:
    value = _typed(values, name, default, int)
    if value < 1:
        raise ConfigError(f"{name} is {value}; it must be 1 or more")
    return value


def _number(values: dict[str, Any], name: str, default: float) -> float:
    return float(_typed(values, name, default, float, int))


def _typed(values: dict[str, Any], name: str, default: Any, *kinds: type) -> Any:
    value = values.get(name, default)
    if type(value) not in kinds:
        raise ConfigError(f"{name} is {value!r}; it must be a {kinds[0].__name__}")
    return value


def check_is_gpt2(config: ModelConfig) -> None:
    """Raise CheckpointError for positions, heads or a block that GPT-2 has no setting for."""
    if isinstance(config, BlockConfig):
        raise CheckpointError(f"GPT-2 has no such block as {config.block}; its model stays here")
    if config.positions == "none":
        raise CheckpointError("GPT-2 has positions, and this model has none; it stays here")
    sizes = dimensions(config)
    if sizes["E"] != 3 * config.embed_dim or sizes["G"] != sizes["H"]:
        raise CheckpointError(
            f"GPT-2 has as many heads of keys and values as of queries, and heads of width "
            f"embed_dim / num_heads; this model has {sizes['G']} for {sizes['H']}, of width "
            f"{sizes['K']}"
        )


def to_gpt2_config(config: ModelConfig, dtype: str, ids: dict[str, Any]) -> dict[str, Any]:
    """The `config.json` of a model as GPT2LMHeadModel reads it; `ids` as of `token_ids`."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_ctx": config.context_length,
        "n_embd": config.embed_dim,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.hidden_dim or None,
        "activation_function": "gelu_new" if config.gelu == "tanh" else "gelu",
        "layer_norm_epsilon": config.norm_epsilon,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "tie_word_embeddings": config.tie_head,
        **_FIXED,
        **ids,
        "dtype": dtype,
        "torch_dtype": dtype,
    }


def token_ids(tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The ids at which a text begins, ends and is filled up, by Hugging Face's names."""
    found = {} if tokenizer is None else roles(tokenizer)
    ends = found.get("ends", ())
    return {
        "bos_token_id": found.get("begin_of_text"),
        "eos_token_id": list(ends) if len(ends) > 1 else next(iter(ends), None),
        "pad_token_id": found.get("padding"),
    }
