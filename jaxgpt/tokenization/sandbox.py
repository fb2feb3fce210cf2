"""Jinja templates that nobody has to trust, rendered as by transformers, in bounded steps."""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial, wraps
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

STEPS = 20_000
"""The most items of loops and calls of functions in one rendering, and 100 for each message."""
CHARACTERS = 1_000_000
"""The longest text, or list with all that is in it, beside a few times what is given."""
# What makes more of a text than it is given: checked before, as a result may fill the memory.
_WRITERS = {"replace", "join", "center", "ljust", "rjust", "zfill", "expandtabs", "translate"}
_WRITERS |= {"indent", "wordwrap", "batch", "slice", "tojson", "*", "**"}


class RefusedError(TemplateError):
    """A template refuses what it is given, by its `raise_exception`."""


class Program:
    """A template's source, whose own texts can be respelt before it is compiled.

    Raises:
        TemplateError: a syntax error, or more than `CHARACTERS`. Like `render`, it also lets out
            whatever else the library does.
    """

    def __init__(self, source: str):
        self._sandbox = _Sandbox()
        if len(source) > CHARACTERS:
            raise TemplateError(f"it has {len(source):,} characters; at most {CHARACTERS:,} do")
        self._tree: nodes.Template = _Counted().visit(self._sandbox.parse(source))
        data = [(node, "data") for node in self._tree.find_all(nodes.TemplateData)]
        constants = [(node, "value") for node in self._tree.find_all(nodes.Const)]
        self._texts = [
            (node, name) for node, name in data + constants if isinstance(getattr(node, name), str)
        ]

    @property
    def texts(self) -> list[str]:
        """What stands in the source as text, or within quotes."""
        return [getattr(node, name) for node, name in self._texts]

    def compile(self, respell: Callable[[str], str]) -> Callable[..., str]:
        """The function of its variables, by name, that renders the template."""
        for node, name in self._texts:
            setattr(node, name, respell(getattr(node, name)))
        template = self._sandbox.from_string(self._tree)
        return lambda **given: template.render(**self._sandbox.begin(given))


class _Counted(NodeTransformer):
    """Lets each loop, list and chain of texts go through the sandbox."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, " counted")
        return node

    def visit_List(self, node: nodes.List | nodes.Dict) -> nodes.Node:
        return _filtered(self.generic_visit(node), " held")

    visit_Dict = visit_List

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "join")


def _filtered(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Generation(Extension):
    """`{% generation %}`, which marks what an assistant says: written as if it were not there."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), True), lineno=line)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        self._steps = self._most = 0
        self.begin({})
        tojson = partial(json.dumps, ensure_ascii=False)
        self.filters |= {"tojson": tojson, " held": self._held, " counted": self._counted}
        del self.filters["format"]
        self.filters = {name: self._bounded(name, f) for name, f in self.filters.items()}
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": _refuse, "dict": partial(dict)}
        self.globals["strftime_now"] = lambda form: datetime.now().strftime(form)

    def begin(self, given: dict[str, Any]) -> dict[str, Any]:
        """Count anew, with room for what is `given`."""
        self._steps, self._most = STEPS + 100 * len(given.get("messages", ())), 2**62
        self._most = CHARACTERS + 4 * self._weight(given)
        return given

    def concat(self, parts: Iterable[str]) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        kept, size = [], 0
        for part in parts:
            size += len(part)
            if size > self._most:
                raise SecurityError("it writes too much")
            kept.append(part)
        return "".join(kept)

    def call(self, context: Any, function: Any, *args: Any, **options: Any) -> Any:  # pyright: ignore
        self._spend()
        receiver = getattr(function, "__self__", None)
        self._check(getattr(function, "__name__", ""), receiver, *args, *options.values())
        return self._held(super().call(context, function, *args, **options))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self._check(operator, left, right)
        if operator == "%" and isinstance(left, str):
            raise SecurityError("it formats by %")
        return self._held(super().call_binop(context, operator, left, right))

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        raise SecurityError(f"it asks for the attribute {attribute!r} of a {type(obj).__name__}")

    def wrap_str_format(self, value: Any) -> None:
        if super().wrap_str_format(value) is not None:  # whose widths are in the text
            raise SecurityError("it formats texts")

    def _bounded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def bounded(*args: Any, **options: Any) -> Any:
            self._spend()
            self._check(name, *args, *options.values())
            return self._held(function(*args, **options))

        return bounded

    def _counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._spend()
            yield item

    def _spend(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise SecurityError("it takes too many steps")

    def _check(self, name: str, *args: Any) -> None:
        if name in _WRITERS and math.prod(max(1, self._weight(x)) for x in args) > 9 * self._most:
            raise SecurityError(f"it makes too much by {name}")

    def _held(self, value: Any) -> Any:
        self._weight(value)
        return value

    def _weight(self, value: Any) -> int:
        """About how many characters a value is written in; a number weighs as much as it says."""
        total, waiting = 0, [value]
        while waiting:
            item = waiting.pop()
            total += 1
            if isinstance(item, str):
                total += len(item)
            elif isinstance(item, dict):
                waiting += [*item, *item.values()]
            elif isinstance(item, list | tuple):
                waiting += item
            elif isinstance(item, int) and item is value:
                return abs(item)
            if total > self._most:
                raise SecurityError("it holds too much")
        return total


def _refuse(message: Any) -> None:
    raise RefusedError(str(message))
