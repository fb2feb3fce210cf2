"""Find the layer at which two GPTs first differ, and why.

A and B are each a run's or a checkpoint's folder, a Hugging Face folder,
file.py:make_model (a function that returns a torch.nn.Module from tokens to logits; the file is
run, so it must be trusted), or a recording .npz made by --save. Exits with 0 if rounding explains
all differences and with 1 if not, in both cases after the last line has said so; a file that raises
or leaves by sys.exit is an error, 4.
"""

from dataclasses import dataclass
from pathlib import Path

from jaxgpt.commands import cli
from jaxgpt.errors import ConfigError
from jaxgpt.shell import command
from jaxgpt.terminal import say


@dataclass(frozen=True)
class Arguments:
    """The two models, and the tokens that both run on."""

    a: cli.Positional[str] = ""
    """A folder, file.py:make_model, or a recording .npz."""
    b: cli.Positional[str] = ""
    """Another."""
    text: str = ""
    """The text to run on; a recording brings its own tokens."""
    tokens: str = ""
    """Instead of a text: ids, such as "15496 11 995"."""
    tokenizer: str = ""
    """gpt2, bytes, or a folder; the default is that of A, or else of B, or else gpt2."""
    plot: Path | None = None
    """Draw the differences by layer as this PNG."""
    save: Path | None = None
    """Write A's recording as this .npz, to be compared on another machine; what is in it stands at
    the head of jaxgpt/parity/recordings/recording_file.py."""

    def __post_init__(self):
        """Refuse what would fail only after all the work."""
        if not self.a or not self.b:
            raise ConfigError(f"name two models: `{command('compare', 'A', 'B')}`")
        cli.check_output("--plot", self.plot, ".png")
        cli.check_output("--save", self.save, ".npz")


def main(argv: list[str]) -> None:
    """Record both, compare, print; leave with 1 where they differ."""
    usage = 'A B --text "Once upon a time"'
    arguments = cli.parse(Arguments, "compare", argv, usage, description=__doc__)

    from jaxgpt.parity.compare import compare, to_text
    from jaxgpt.parity.recordings.recording_file import save_recording
    from jaxgpt.parity.recordings.sides import choose_tokens, open_side, record_both

    sides = open_side(arguments.a), open_side(arguments.b)
    tokens = choose_tokens(sides, arguments.text, arguments.tokens, arguments.tokenizer)
    a, b = record_both(*sides, tokens)
    if arguments.save:
        save_recording(a, arguments.save)
    comparison = compare(a, b)
    say(to_text(comparison, a, b))
    if arguments.plot:
        from jaxgpt.training.plots import plot_differences

        rows = [row for row in comparison.rows if row.kind == "activation"]
        relative, bounds = [row.relative for row in rows], [row.bound for row in rows]
        title = f"A: {a.name}, B: {b.name}"
        plot_differences([row.name for row in rows], relative, bounds, arguments.plot, title)
    raise SystemExit(0 if comparison.equal else 1)
