"""What `--mesh` names, beside the settings that were there before it."""

import pytest

from jaxgpt.axes import Axes, parse_axes
from jaxgpt.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "older", "axes"),
    [
        ("", Axes(), (0, 1, 1)),
        ("data=4,fsdp=2,tensor=2", Axes(), (4, 2, 2)),
        (" tensor = 2 , fsdp=4", Axes(), (0, 4, 2)),
        ("tensor=2", Axes(data=2, fsdp=2), (2, 2, 2)),
        ("fsdp=2", Axes(fsdp=2), (0, 2, 1)),
    ],
)
def test_axes_are_those_of_the_mesh_then_those_before(text, older, axes):
    assert parse_axes(text, older) == axes


def test_axes_are_written_as_they_are_read():
    for axes in (Axes(4, 2, 2), Axes(0, 8)):
        assert parse_axes(str(axes), Axes()) == axes


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("modle=2", "'modle' is no axis; write axes"),
        ("tensr=2", r"'tensr' is no axis \(did you mean tensor\?\)"),
        ("data", "data needs 1 or more; write axes and their devices, such as data=4"),
        ("data=0", "data needs 1 or more"),
        ("data=-1", "data needs 1 or more"),
        ("data=2,data=2", "with data twice"),
        ("fsdp=4", "mesh is fsdp=4, but fsdp is 2; give fsdp in mesh alone"),
        ("data=4", "but data_parallel is 2; give data in mesh alone"),
    ],
)
def test_axes_that_cannot_be_are_refused(text, complaint):
    with pytest.raises(ConfigError, match=complaint):
        parse_axes(text, Axes(data=2, fsdp=2))
