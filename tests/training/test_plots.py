"""Pictures say what they show: a title, names on the axes, one colour for one thing."""

import math

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from jaxgpt.finetuning.tune_classifier import ACCURACIES
from jaxgpt.finetuning.tune_preferences import ACCURACY, REWARDS
from jaxgpt.training.picture import COLORS
from jaxgpt.training.plots import (
    LOSSES,
    Panel,
    plot_bars,
    plot_confusion,
    plot_curves,
    plot_differences,
    plot_losses,
    plot_reliability,
    plot_stages,
    plot_trajectories,
    running_mean,
)

ENTROPY = 1.288
STEPS = range(0, 1001, 10)


def fall(step):
    return 1.383 + 6.2 * math.exp(-step / 40)


BATCHES = [{"step": step, "loss": fall(step) + 0.02 * (-1) ** (step // 10)} for step in STEPS[1:]]
MEASURED = [{"step": step, "validation_loss": fall(step)} for step in (0, 250, 500, 750, 1000)]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """`drawn(plot, ...)`: the figure that `plot(..., path)` writes, and that it is a PNG."""
    figures, savefig = [], Figure.savefig

    def keep(self, *args, **kwargs):
        figures.append(self)
        savefig(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)

    def draw(plot, *given, title="a run"):
        plot(*given, tmp_path / "picture.png", *([] if plot is plot_bars else [title]))
        assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
        return figures[-1]

    return draw


def losses(entropy):
    return lambda records, path, title: plot_losses(records, path, title, entropy)


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def color_of(axes, label):
    return to_hex(next(x for x in axes.lines if x.get_label().startswith(label)).get_color())


def shown_ticks(axis):
    low, high = sorted(axis.get_view_interval())
    return [
        tick.label1.get_text() for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high
    ]


def test_the_gap_to_the_entropy_fills_a_panel_of_its_own(drawn):
    figure = drawn(losses(ENTROPY), [*MEASURED, *BATCHES])
    above, below = figure.axes
    assert figure.get_suptitle() == "a run"
    assert (above.get_ylabel(), below.get_xlabel()) == ("loss (nats per token)", "step")
    assert below.get_ylabel() == "loss above the entropy\n(nats per token), log scale"
    assert labels(above)[-1] == "entropy of the text: 1.288"
    assert labels(below)[1] == "validation, last 0.095"
    # The last gap, 0.095, was 1% of the axis's height from the line that it is measured from.
    assert below.get_yscale() == "log"
    assert below.get_ylim()[0] < 0.095 < 5 < below.get_ylim()[1]
    assert shown_ticks(below.yaxis) == ["0.1", "0.2", "0.5", "1", "2", "5"]


def test_a_mean_is_drawn_over_the_single_batches(drawn):
    (axes,) = drawn(losses(None), BATCHES).axes
    batches, mean = axes.lines
    assert batches.get_alpha() < 0.5
    assert mean.get_label().startswith("training (running mean), last")
    late = mean.get_ydata()[50:]
    assert np.ptp(late) < np.ptp(batches.get_ydata()[50:]) / 2


def test_a_running_mean_lags_behind_no_fall():
    values = np.array([fall(step) for step in STEPS])
    mean = running_mean(values)
    assert mean[0] == values[0]
    np.testing.assert_allclose(mean, values, rtol=0.05)
    np.testing.assert_allclose(running_mean(np.arange(40.0))[:30], np.arange(30.0))
    few = np.array([3.0, 1.0, 2.0])
    np.testing.assert_array_equal(running_mean(few), few)


def test_a_colour_means_one_thing_in_every_panel(drawn):
    assert len(set(COLORS.values())) == len(COLORS)
    records = [
        {"step": step} | dict.fromkeys((*LOSSES, *REWARDS, *ACCURACY, *ACCURACIES), 0.5)
        for step in range(3)
    ]
    panels = [Panel("loss", LOSSES), Panel("reward", REWARDS), Panel("a", ACCURACIES, "share")]
    for axes, panel in zip(drawn(plot_curves, records, panels).axes, panels, strict=True):
        for label in panel.curves.values():
            assert color_of(axes, label) == COLORS[label]
    (axes,) = drawn(plot_curves, records, [Panel("preferred", ACCURACY, "share")]).axes
    assert color_of(axes, "validation") == COLORS["validation"]


def test_a_loss_that_hardly_moves_fills_its_axis_and_is_not_cut(drawn):
    """As of DPO, which begins at ln 2."""
    values = [math.log(2), 0.667, 0.645, 0.637, 0.635]
    records = [{"step": step, "validation_loss": x} for step, x in enumerate(values)]
    panel = Panel("loss (nats per pair)", LOSSES, limit=("ln 2", math.log(2)))
    (axes,) = drawn(plot_curves, records, [panel]).axes
    low, high = axes.get_ylim()
    assert low < min(values) < max(values) < high
    assert (max(values) - min(values)) / (high - low) > 0.8
    assert labels(axes) == ["validation, last 0.635", "ln 2: 0.693"]


def test_shares_are_percentages(drawn):
    records = [{"step": step, "validation_accuracy": step / 10} for step in range(11)]
    (axes,) = drawn(plot_curves, records, [Panel("right", ACCURACY, "share")]).axes
    assert shown_ticks(axes.yaxis) == ["0%", "20%", "40%", "60%", "80%", "100%"]


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    "records",
    [
        [],
        [{"step": 0, "validation_loss": 2.0}],
        [{"step": 1, "loss": math.nan}, {"step": 2, "loss": math.inf}],
        [{"step": 1, "loss": 10**400}, {"step": 2, "loss": 1e29}],
        [{"step": 1, "loss": ENTROPY}, {"step": 2, "loss": 1.0}],
    ],
)
def test_runs_that_say_little_are_drawn_too(drawn, records):
    for entropy in (None, ENTROPY):
        drawn(losses(entropy), records)
    drawn(plot_curves, records, [Panel("loss", LOSSES, "log")])


def test_calibration_names_its_axes_and_numbers_its_bars(drawn):
    counts, share = np.array([0, 3, 1091]), np.array([0, 0.5, 0.99])
    above, below = drawn(plot_reliability, counts, share, share).axes
    assert (above.get_ylabel(), below.get_ylabel()) == ("how often it is right", "texts")
    assert [text.get_text() for text in below.texts] == ["", "3", "1,091"]
    assert all(tick.replace(",", "").isdecimal() for tick in shown_ticks(below.yaxis))


def pictures():
    steps = {"PyTorch": np.array([3.0, 2.0]), "jaxgpt": np.array([3.0, 2.0])}
    return {
        "losses": (losses(ENTROPY), [*MEASURED, *BATCHES]),
        "confusion": (plot_confusion, np.array([[9, 1], [2, 8]]), ["ham", "spam"]),
        "calibration": (plot_reliability, np.array([0, 3]), *2 * [np.array([0, 0.7])]),
        "trajectories": (plot_trajectories, steps, {"jaxgpt - PyTorch": np.array([0.0, 1e-7])}),
        "differences": (plot_differences, ["embed", "norm"], [1e-7, 1e-2], [1e-6, 1e-6]),
        "stages": (
            plot_stages,
            ["after pretraining", "after more"],
            {"who": [0.0, 1.0], "all": [0.1, 1.0]},
        ),
    }


@pytest.mark.slow_but_first
@pytest.mark.parametrize("name", pictures())
def test_every_picture_has_a_title_and_names_on_its_axes(drawn, name):
    plot, *given = pictures()[name]
    figure = drawn(plot, *given)
    assert figure.get_suptitle() == "a run"
    for axes in figure.axes:
        assert axes.get_ylabel()
        assert "$" not in "".join(shown_ticks(axes.yaxis))
        if axes.get_legend():  # stands above the axes, within the picture
            box = axes.get_legend().get_window_extent()
            assert box.y0 >= axes.get_window_extent().y1
            assert box.x1 <= figure.bbox.x1


def test_text_is_drawn_as_it_is_whatever_it_contains(drawn):
    odd = "$x$ \\frac{ \u732b \x1b[31m " + 100 * "long "
    figure = drawn(plot_confusion, np.eye(2, dtype=int), ["$", "\u732b"], title=odd)
    assert figure.get_suptitle().startswith("$x$ \\frac{ \u732b \\x1b[31m long")
    assert len(figure.get_suptitle()) <= 90
    drawn(plot_bars, {"$a$": 1.0, "b": 2000.0}, "$x$ a step")
