"""README.md and the curves of a fine-tuning run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxgpt.errors import ResourceError
from jaxgpt.finetuning.settings import TuningConfig
from jaxgpt.training.overfitting import best_line
from jaxgpt.training.plots import Panel, plot_curves
from jaxgpt.training.run import PICTURE
from jaxgpt.training.run_card import CARD, last_value, write_card


@dataclass(frozen=True)
class TuningCard:
    """What README.md and the curves of a fine-tuning run say beside its records."""

    run: Path
    config: TuningConfig
    kind: str
    """Of the fine-tuning, such as classification."""
    trained: int
    """How many parameters."""
    panels: Sequence[Panel]
    command: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    def publish(
        self,
        records: list[dict[str, Any]],
        complain: Callable[[str], None],
        rows: Mapping[str, str] | None = None,
        pictures: Sequence[str] = (),
    ) -> None:
        """Write both from the run's records; `rows` and `pictures` are of what came after them.

        A failure is told to `complain`: neither is worth the end of a run.
        """
        names = {name for item in records for name in item if name.startswith("validation_")}
        table = {
            "begun with": self.config.init_from,
            "parameters trained": f"{self.trained:,}",
            **self.facts,
            "steps": f"{last_value(records, 'step', 0):,}",
            **{
                name.replace("_", " "): f"{last_value(records, name):.4f}" for name in sorted(names)
            },
            "lowest validation loss": best_line(records),
            **(rows or {}),
        }
        title = (
            f"{self.run.absolute().name}: {self.kind}, begun with {self.config.init_from}, "
            f"{self.trained:,} parameters trained"
        )
        try:
            plot_curves(records, self.panels, self.run / PICTURE, title)
            shown = [PICTURE, *pictures]
            write_card(self.run, self.config, table, records, self.command, shown)
        except (OSError, ResourceError) as error:
            complain(f"warning: {PICTURE} and {CARD} of {self.run} could not be written: {error}")
