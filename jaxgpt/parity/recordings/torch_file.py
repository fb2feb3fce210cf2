"""A PyTorch module from a user's Python file."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from jaxgpt.errors import CheckpointError


def load_module(path: Path, function: str) -> nn.Module:
    """What `function()` of a Python file returns; the file is run, so it must be trusted.

    Raises CheckpointError if the file or the function is not there, raises, or makes no module.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file; name one as file.py:make_model")
    spec = importlib.util.spec_from_file_location(f"jaxgpt_compared_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise CheckpointError(f"{path} is no Python file; name one as file.py:make_model")
    source = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = source  # dataclasses look their module up
    sys.path.insert(0, str(path.parent.absolute()))
    try:
        with blaming(str(path)):
            spec.loader.exec_module(source)
            make = getattr(source, function, None)
            if not callable(make):
                raise CheckpointError(f"{path} has no function {function}; write file.py:FUNCTION")
            module = make()
    finally:
        sys.path.pop(0)
    if not isinstance(module, nn.Module):
        raise CheckpointError(
            f"{path}:{function} returns a {type(module).__name__}; it must be a torch.nn.Module"
        )
    return module


@contextmanager
def blaming(name: str) -> Iterator[None]:
    """Say of any failure in foreign code whose it is, in one line."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        line = (str(error).splitlines() or [""])[0]
        raise CheckpointError(f"{name} raises {type(error).__name__}: {line}") from error
