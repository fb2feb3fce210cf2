"""The commands of jaxgpt from a checkout; a Python that cannot run them gets one line for it.

Standard library only, and in the grammar of older Pythons.
"""

import os
import shlex
import sys

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OLDEST = (3, 11)


def run(name):
    """Run the command `jaxgpt NAME` on the arguments of this process."""
    from jaxgpt.__main__ import main  # behind the hook: the package may not be installed

    main(name.split() + sys.argv[1:])


def _end(kind, error, trace):
    """Show what ends the process; Ctrl-C while modules are imported is quiet."""
    if issubclass(kind, ModuleNotFoundError) and "--debug" not in sys.argv:
        _refuse("the package " + str(error.name).partition(".")[0] + " is not installed")
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)


def _refuse(why):
    """Leave with one line that names the Python which has what is needed, and exit code 2."""
    made = os.path.join(_ROOT, ".venv", "bin", "python")
    if sys.executable == made:
        advice = "run " + _quoted([_from_here(made), "-m", "pip", "install", "-e", _ROOT])
    else:
        install = "" if os.path.exists(made) else "run `make install`, then "
        advice = install + "use " + _quoted([_from_here(made), *sys.argv])
    sys.stderr.write("error: {}: {}; {}\n".format(sys.executable, why, advice))  # noqa: UP032
    raise SystemExit(2)


def _quoted(words):
    return "`" + " ".join(map(shlex.quote, words)) + "`"


def _from_here(path):
    return os.path.relpath(path) if path.startswith(os.path.join(os.getcwd(), "")) else path


sys.excepthook = _end
if sys.version_info < _OLDEST:
    _refuse("this Python is older than 3.11")
