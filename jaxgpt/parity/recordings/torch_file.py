"""A PyTorch module from a user's Python file."""

import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from torch import nn

from jaxgpt.errors import CheckpointError, JaxgptError


def load_module(path: Path, function: str) -> nn.Module:
    """What `function()` of a Python file returns; the file is run, so it must be trusted.

    Raises CheckpointError if the file or the function is not there, raises, leaves, or makes no
    module.
    """
    if not os.path.isfile(path):  # pathlib's would raise on a name that is too long
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
    """Say of any failure in foreign code whose it is, in one line.

    To leave by `sys.exit` or `os._exit` is a failure too, with whatever code: nothing was compared.
    A signal that ends this process, by a handler of its own, is none.
    """
    own, leave = os.getpid(), os._exit

    def refuse(code: int) -> NoReturn:
        if os.getpid() != own:
            leave(code)  # a child process, such as one that loads data
        raise _LeftError(f"os._exit({code})")

    os._exit = refuse
    try:
        yield
    except (JaxgptError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if isinstance(error, SystemExit) and error.code == 128 + signal.SIGTERM:
            raise
        line = (str(error).splitlines() or [""])[0]
        raise CheckpointError(f"{name} raises {type(error).__name__}: {line}") from error
    finally:
        os._exit = leave


class _LeftError(BaseException):
    """Foreign code that left the process at once, as far as it could."""
