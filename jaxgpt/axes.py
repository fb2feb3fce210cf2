"""The axes of a mesh of devices, as `--mesh` names them. Standard library only."""

from typing import Any, NamedTuple

from jaxgpt.errors import ConfigError, brief, nearest

_SUCH_AS = "write axes and their devices, such as data=4,fsdp=2,tensor=2, or leave it out"


class Axes(NamedTuple):
    """How many devices lie along each axis of a mesh, outermost first."""

    data: int = 0
    """They share a batch; 0 are all that the other axes leave."""
    fsdp: int = 1
    """They share the batch, the parameters and the optimizer's state."""
    tensor: int = 1
    """They share heads, hidden width and vocabulary, and what is computed of them."""

    @property
    def sharing(self) -> int:
        """How many devices share the parameters."""
        return self.fsdp * self.tensor

    def __str__(self) -> str:
        """As `--mesh` takes it."""
        return ",".join(f"{name}={size}" for name, size in self._asdict().items() if size)


def axes_of(config: Any) -> Axes:
    """The axes that the settings of a run ask for; raises as `parse_axes` does."""
    return parse_axes(config.mesh, Axes(config.data_parallel, config.fsdp))


def parse_axes(text: str, older: Axes) -> Axes:
    """The axes that `text` names, and of the others those of `older`, the settings before it.

    Raises ConfigError for a text that names no axes, and where it contradicts `older`.
    """
    sizes: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, equals, size = (word.strip() for word in part.partition("="))
        if name not in Axes._fields:
            raise ConfigError(
                f"mesh is {brief(text)}, and {brief(name)} is no axis{nearest(name, Axes._fields)};"
                f" {_SUCH_AS}"
            )
        if not equals or not size.isdecimal() or not 1 <= int(size[:10]) < 2**31:
            raise ConfigError(f"mesh is {brief(text)}: {name} needs 1 or more; {_SUCH_AS}")
        if name in sizes:
            raise ConfigError(f"mesh is {brief(text)}, with {name} twice; {_SUCH_AS}")
        sizes[name] = int(size)
    for name, size in sizes.items():
        before, standard = getattr(older, name), Axes._field_defaults[name]
        if before not in (standard, size):
            flag = {"data": "data_parallel"}.get(name, name)
            raise ConfigError(f"mesh is {text}, but {flag} is {before}; give {name} in mesh alone")
    return older._replace(**sizes)
