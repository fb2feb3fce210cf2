"""What code runs here: two processes of one run must not differ in it."""

from importlib.metadata import version
from pathlib import Path

from jaxgpt import __version__
from jaxgpt.files import sha256

_ROOT = Path(__file__).parent.parent


def versions() -> dict[str, str]:
    """The versions of jaxgpt and JAX, and a sum of jaxgpt's files."""
    code = sha256(path.read_bytes() for path in sorted(_ROOT.rglob("*.py")))
    return {"jaxgpt": __version__, "code of jaxgpt": code[:16], "jax": version("jax")}
