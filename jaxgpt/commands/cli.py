"""What every command line shares: tyro in, one line out when something is wrong."""

import errno
import io
import logging
import os
import re
import signal
import stat
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro

from jaxgpt.commands import environment, help_page
from jaxgpt.commands.hosts import finish_together, leave_together
from jaxgpt.data.downloads import SOURCES
from jaxgpt.data.mixture import names_of, read_weights
from jaxgpt.data.paths import is_dataset
from jaxgpt.errors import ConfigError, JaxgptError, brief
from jaxgpt.generation.settings import WeightDtype
from jaxgpt.shell import command, install, this_command
from jaxgpt.terminal import complain, escape, note, one_line, say
from jaxgpt.training.kept import find_best

Arguments = TypeVar("Arguments")
Positional = tyro.conf.Positional  # Positional[str] is given by its place, without a flag
_FLAT = (tyro.conf.OmitArgPrefixes,)
# Tyro indents its text by 2, the flags in it by 6, and their help by 10.
_TEXT, _FLAG = 2, 6
_LONGEST = 2000  # characters of a line that a person can be asked to read
_ASIDES = (" For full helptext", " Argument helptext", " Got errors")


def parse(
    kind: type[Arguments],
    name: str,
    argv: Sequence[str],
    usage: str,
    *,
    common: Collection[str] = (),
    **options,
) -> Arguments:
    """Parse a command's `argv` into `kind`; a bad argument is one line on stderr and exit code 2.

    `name` is the command's; `usage` is the shortest line of arguments, such as `--checkpoint RUN
    [--seed N]`, shown alone if `argv` is empty although something is needed. --help shows the
    options that `common` names by their fields, or all. `options` go to `tyro.cli` (`default`,
    `description`).
    """
    line = f"{command(name)} {usage}"
    if not argv and re.sub(r"\[.*?\]", "", usage).strip():
        note(f"usage: {line} (--help shows the options)")
        raise SystemExit(2)
    if asked := set(help_page.FLAGS) & set(argv):
        text = _help_text(kind, options)
        say(help_page.page(text, line, common, everything="--help-all" in asked))
        raise SystemExit(0)
    _refuse_twice(argv)
    options |= {"prog": f"jaxgpt {name}", "args": list(argv), "config": _FLAT}
    complaint = io.StringIO()
    try:
        # With both streams redirected, tyro writes in neither boxes nor colours.
        with redirect_stderr(complaint), redirect_stdout(io.StringIO()):
            arguments = tyro.cli(kind, **options)
    except SystemExit as stop:
        if stop.code == 128 + signal.SIGTERM:
            raise
        fail(_one_line(complaint.getvalue()), 2)
    if complaint.getvalue():
        note(complaint.getvalue().rstrip())  # warnings about the values
    return arguments


def parse_first_word(
    name: str,
    kinds: Mapping[str, tuple[type[Any], str]],
    argv: Sequence[str],
    usage: str,
    description: str | None,
) -> Any:
    """Parse what the first word of a command's `argv` names among `kinds`, each with its usage.

    Without a word it is the first of them, by `usage`. Raises ConfigError for another word.
    """
    if not argv or argv[0].startswith("-"):
        return parse(next(iter(kinds.values()))[0], name, argv, usage, description=description)
    word, *flags = argv
    if word not in kinds:
        raise ConfigError(f"{name} has no {word!r}; the first word is one of {'|'.join(kinds)}")
    kind, own = kinds[word]
    return parse(kind, name, flags, f"{word} {own}")


def _help_text(kind: type, options: dict[str, Any]) -> str:
    """Tyro's own page."""
    if "default" in options:
        options |= {"default": _escaped(options["default"])}
    text, columns = io.StringIO(), os.environ.get("COLUMNS", "")
    os.environ["COLUMNS"] = "100"  # more would put two groups side by side
    try:
        with redirect_stdout(text), suppress(SystemExit):
            tyro.cli(kind, args=["--help"], config=_FLAT, **options)
    finally:
        os.environ["COLUMNS"] = columns  # an empty one counts as none
    return text.getvalue()


def _refuse_twice(argv: Sequence[str]) -> None:
    """Leave with one line if a flag is given twice, or beside its opposite."""
    given = Counter(
        word.partition("=")[0].replace("_", "-").replace("--no-", "--", 1)
        for word in argv
        if word.startswith("--")
    )
    for flag, times in given.items():
        if times > 1:
            fail(f"{flag} is given {'twice' if times == 2 else f'{times} times'}; give it once", 2)


def refuse_idle(argv: Sequence[str], config: Any) -> None:
    """Raise ConfigError if a flag was given that the data which `config` names does not heed."""
    given = {word.split("=")[0].replace("_", "-") for word in argv if word.startswith("--")}
    data = names_of(config.data)
    sources = [(name,) for name in read_weights(config.data)] or [data]
    reasons = {
        "--stories-bytes": "stories" not in data and "is for --data stories alone",
        "--text-field": data == ("stories",) and "goes with files of records, not stories",
        "--shards": not SOURCES.keys() & set(data)
        and f"goes with data that is downloaded: {', '.join(SOURCES)}",
        "--validation-fraction": bool(config.validation_data)
        and "is not used beside --validation-data; drop one of the two",
    }
    if all(map(is_dataset, sources)):
        why = f"has no effect on {', '.join(data)}, which is tokens already; drop it"
        reasons |= {"--validation-fraction": why, "--text-field": why}
    for flag, why in reasons.items():
        if why and flag in given:
            raise ConfigError(f"{flag} {why}")


def _escaped(value: Any) -> Any:
    """A config with its strings escaped, to be shown."""
    if is_dataclass(value) and not isinstance(value, type):
        shown = {item.name: _escaped(getattr(value, item.name)) for item in fields(value)}
        return replace(value, **shown)
    if isinstance(value, tuple):
        return tuple(map(_escaped, value))
    return escape(value) if isinstance(value, str) else value


def named(flag: str) -> Any:
    """An annotation that calls a field's flag otherwise, such as by a word Python has taken."""
    return tyro.conf.arg(name=flag)


@dataclass(frozen=True)
class ModelSource:
    """Which model; one of checkpoint and init_from."""

    checkpoint: str = ""
    """A run's folder, whose newest checkpoint is taken, the folder of one checkpoint, or adapters.
    """
    base: str = ""
    """Where the model that adapters were trained beside lies now, if it was moved."""
    init_from: str = ""
    """Instead of checkpoint: also a folder of Hugging Face."""
    tokenizer: str = ""
    """With init_from: the tokenizer, where the folder has none; gpt2, bytes, or a folder."""
    best: bool = False
    """Take the checkpoint of the run's lowest validation loss instead of the newest."""
    mesh: str = ""
    """Devices that share the model, such as tensor=2 or fsdp=4; empty takes one."""

    def __post_init__(self):
        if bool(self.checkpoint) == bool(self.init_from):
            raise ConfigError("name the model by one of --checkpoint and --init-from")
        if self.tokenizer and self.checkpoint:
            raise ConfigError("--tokenizer goes with --init-from; a checkpoint has its own")

    def load(self, weight_dtype: WeightDtype = "stored") -> Any:
        """The LoadedModel, its weights kept in `weight_dtype`."""
        from jaxgpt.finetuning.lora_file import check_base, find_adapters
        from jaxgpt.finetuning.pretrained import load_pretrained
        from jaxgpt.training.checkpoint import load_model
        from jaxgpt.training.sharing import share

        path = checkpoint_of(self.checkpoint or self.init_from, best=self.best)
        check_base(path, self.base)
        load = partial(load_pretrained, path, self.tokenizer or None, base=self.base)
        if self.checkpoint and not find_adapters(path):
            load = partial(load_model, path)
        model = share(load, self.mesh)
        if weight_dtype == "stored":
            return model
        from jaxgpt.generation.prepared_params import prepare_params

        return replace(model, params=prepare_params(model.params, weight_dtype).as_params())


def checkpoint_of(path: str, *, best: bool) -> str:
    """The path of a model, or of the best checkpoint of the run in it; raises as `find_best`."""
    return str(find_best(path)) if best else path


def _one_line(complaint: str) -> str:
    """Tyro's complaint without its heading, its rules and the help of the flags that it names."""
    sections: list[str] = [""]
    lines = [line for line in complaint.splitlines() if not line.startswith("warning: ")]
    for line in lines[1:]:
        text, indent = line.strip(), len(line) - len(line.lstrip())
        if not text.strip("-"):
            sections.append("")
        elif indent <= _TEXT:
            sections[-1] += " " + text
        elif indent <= _FLAG:
            sections[-1] += (" " if sections[-1].endswith(":") else ", ") + text.split()[0]
    kept = [text.strip() for text in sections if text and not text.startswith(_ASIDES)]
    return "; ".join(kept)


def fail(message: str, exit_code: int) -> NoReturn:
    """Print `error: message` as one line on stderr and leave with `exit_code`."""
    line = one_line(message)
    complain(f"error: {line if len(line) <= _LONGEST else line[:_LONGEST] + '...'}")
    raise SystemExit(exit_code)


def run(main: Callable[[list[str]], None], given: Sequence[str]) -> None:
    """Run a command's `main(argv)`; a failure that the user can mend becomes one line.

    `--debug` anywhere on the command line shows the traceback instead.
    """
    argv = [argument for argument in given if argument != "--debug"]
    debug = len(argv) < len(given)
    if debug:
        logging.getLogger("jaxgpt").setLevel(logging.DEBUG)
    warnings.formatwarning = lambda message, *_: f"warning: {one_line(str(message))}\n"
    _open_standard_streams()
    environment.settle()
    made = environment.keep_compiled()
    # So that what is half written is removed; training puts a handler of its own in this place.
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # not where nohup asks to ignore it
        signal.signal(signal.SIGHUP, _terminate)
    hook, sys.unraisablehook = sys.unraisablehook, _send_again
    try:
        main(argv)
        finish_together()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        finish_together()
        raise SystemExit(128 + signal.SIGPIPE) from None
    except KeyboardInterrupt as error:
        note("")
        leave_together(error, None)
        raise SystemExit(128 + signal.SIGINT) from None
    except SystemExit as error:
        leave_together(error, None)
        raise
    except Exception as error:
        mendable = None if debug else _mendable(error)
        leave_together(error, mendable)
        if mendable is None:
            raise
        fail(*mendable)
    finally:
        sys.unraisablehook = hook
        for folder in reversed(made):
            with suppress(OSError):  # it holds programs
                folder.rmdir()


def _mendable(error: Exception) -> tuple[str, int] | None:
    """What to say of a failure that the user can mend, and the exit code; None of any other."""
    text = str(error)
    first, out_of_memory = (text.splitlines() or [repr(error)])[0], "RESOURCE_EXHAUSTED" in text
    match error:
        case JaxgptError():
            return text, error.exit_code
        case ModuleNotFoundError(name="torch"):
            return f"this needs PyTorch, which is not installed: {install('torch')}", 2
        case FloatingPointError():  # JAX_DEBUG_NANS and JAX_DEBUG_INFS
            return text, 5
        case ValueError():
            named = any(name in text.upper() for name in os.environ if name.startswith("JAX_"))
            advice = f"{text}; set it to something else in the environment, or unset it"
            return (advice, 2) if named else None
        case OSError() | MemoryError() | RuntimeError() if "Unable to initialize backend" in text:
            return text, 2
        case OSError(errno=errno.ENAMETOOLONG):
            return f"{error.filename}: the name is too long", 2
        case OSError() | MemoryError() | RuntimeError() if out_of_memory:  # JAX's, for any device
            return f"{first}; lower --batch-size or raise --gradient-accumulation", 6
        case OSError() | MemoryError():
            return first, 6
        case _:
            return None


def _send_again(lost: Any) -> None:
    """Let a signal come again whose exception came where none is raised, as in JAX's callbacks."""
    error = lost.exc_value
    number = signal.SIGINT if isinstance(error, KeyboardInterrupt) else 0
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        number = max(error.code - 128, 0)
    if not number:
        sys.__unraisablehook__(lost)
        return
    timer = threading.Timer(0.1, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()


def _terminate(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _open_standard_streams() -> None:
    """Put an empty device where the shell closed standard input, output or error.

    The next file to be opened would else take its number, and be written by what logs to that.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def numbers(flag: str, text: str, kind: Callable[[str], Any]) -> list[Any]:
    """The numbers in a flag's `text`, with commas between; raises ConfigError for another."""
    try:
        return [kind(part) for part in text.split(",")] if text else []
    except ValueError:
        raise ConfigError(
            f"{flag} is {brief(text)}; write {'whole ' if kind is int else ''}numbers with commas "
            "between"
        ) from None


def check_output(flag: str, path: str | Path | None, suffix: str) -> None:
    """Raise ConfigError unless a file `path`, if any, ends in `suffix` and can be written."""
    if not path:
        return
    path = Path(path)
    if path.suffix != suffix:
        raise ConfigError(f"{flag} is {path}; its name must end in {suffix}")
    folder = path.absolute().parent
    if not os.path.isdir(folder):  # pathlib's would raise on a name too long
        raise ConfigError(f"{flag} is {path}, in a folder that does not exist; make it first")
    try:
        kind = os.stat(path).st_mode
    except FileNotFoundError:
        kind = stat.S_IFREG
    except (OSError, ValueError) as error:  # too long, a link to itself, a NUL byte
        raise ConfigError(f"{flag} {path} cannot be written: {error}") from None
    if not stat.S_ISREG(kind):
        what = "a folder" if stat.S_ISDIR(kind) else "a pipe, socket or device"
        raise ConfigError(f"{flag} {path} is {what}; name a file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{flag} {path} cannot be written: its folder is read-only")


@contextmanager
def standard_folder(out: str, standard: Path) -> Iterator[Path]:
    """The run's folder, `out` or `standard`, whose own folder is made, and removed if left empty.

    Raises ConfigError if it cannot be made.
    """
    if out:
        yield Path(out)
        return
    folder = standard.parent
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made ({error.strerror}); set --out") from None
    try:
        yield standard
    except BaseException:
        with suppress(OSError):  # it holds other runs
            folder.rmdir()
        raise


def leave_if_stopped(signal_number: int | None, run: Path, step: int, steps: int) -> None:
    """Say how to go on, and exit as the signal says, if one stopped the run before its end."""
    if signal_number is not None and step < steps:
        note(f"saved {run} at step {step}; resume with: {again()}")
        raise SystemExit(128 + signal_number)


def again(*more: str) -> str:
    """The command line of this process for the same run, which has begun, with `more` flags."""
    line = f" {this_command()} "
    for flag in (" --overwrite ", " --resume never ", " --resume=never "):
        line = line.replace(flag, " ")
    return " ".join((line.strip(), *more))


def say_best(records: Sequence[Mapping[str, Any]]) -> None:
    """Print where the validation loss of a run was lower than at its end, if it was."""
    from jaxgpt.training.overfitting import best_line  # imports numpy

    if line := best_line(records):
        say(f"the validation loss was lower before, {line}; --best takes that checkpoint")
