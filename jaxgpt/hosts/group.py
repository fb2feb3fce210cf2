"""The processes of a run, as one of them sees the others: the only file that knows JAX's service.

They agree by words in the store of JAX's coordination service, so that no device takes part and any
thread may do it.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxgpt.errors import ConfigError, PeerError, ResourceError

_TURN = 1000  # milliseconds in which it is asked again whether the others are alive
_PATIENCE = 120.0  # seconds in which the others end what has failed here
_LATE = ("DEADLINE_EXCEEDED", "NOT_FOUND")


class Group:
    """The processes of a run: `count` of them, of which this is number `index`.

    Where there is one, all is agreed at once. Each of `exchange`, `from_first`, `wait` and `alone`
    is to be called by all processes, by one name in the same order. They raise PeerError if another
    process has failed or ended.
    """

    def __init__(self, index: int = 0, count: int = 1, client: Any = None) -> None:
        self.index, self.count, self._client = index, count, client
        self.failure: PeerError | None = None
        self._turns: Counter[str] = Counter()

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.index == 0

    def exchange(self, name: str, value: Any, patience: float = math.inf) -> list[Any]:
        """What each process has given, in their order; anything that JSON can hold.

        Raises PeerError too if one has not answered after `patience` seconds.
        """
        if self.count == 1:
            return [value]
        key = self._next(name)
        self.tell(f"{key}/{self.index}", json.dumps(value))
        end = time.monotonic() + patience
        return [json.loads(self._hear(f"{key}/{index}", end)) for index in range(self.count)]

    def from_first(self, name: str, value: Any = None) -> Any:
        """What process 0 has given; the others' `value` is not looked at."""
        if self.count == 1:
            return value
        key = self._next(name)
        if self.is_first:
            self.tell(key, json.dumps(value))
        return json.loads(self._hear(key))

    def wait(self, name: str) -> None:
        """Wait until all processes are here."""
        self.exchange(name, None)

    @contextmanager
    def first_alone(self, name: str) -> Iterator[None]:
        """A body that process 0 is through with before the others begin it."""
        if not self.is_first:
            self.from_first(name)
        yield
        if self.is_first:
            self.from_first(name)

    @contextmanager
    def together(self, name: str) -> Iterator[None]:
        """A body that fails on all processes if it does on one, by a ResourceError of the first.

        Where it has failed on this one and the others do not come to its end, it is a PeerError.
        """
        if self.count == 1:
            yield
            return
        failure: OSError | ResourceError | None = None
        try:
            yield
        except (OSError, ResourceError) as error:
            failure = error
        try:
            found = self.exchange(
                name, failure and str(failure), _PATIENCE if failure else math.inf
            )
        except PeerError as error:
            if failure is None or error is self.failure:
                raise
            # They may wait for what this one did not do, within a library and without end.
            raise PeerError(f"process {self.index}: {failure}") from None
        if failure is not None:
            raise failure
        for index, text in enumerate(found):
            if text:
                raise ResourceError(f"process {index}: {text}" if index else text)

    def check_alike(self, what: dict[str, Any]) -> None:
        """Raise ConfigError, with the process and the name, where a value differs from process 0's.

        `what` may be nested, and all processes must give the same names.
        """
        ours, *others = (_flat(found) for found in self.exchange("alike", what))
        for index, theirs in enumerate(others, start=1):
            for name in sorted(ours | theirs):
                if ours.get(name) != theirs.get(name):
                    raise ConfigError(
                        f"process {index} has {name} {theirs.get(name)}, but process 0 has "
                        f"{ours.get(name)}; start all with the same command, files and version"
                    )

    def tell(self, key: str, word: str) -> None:
        """Write a word into the store, over what was there."""
        self._client.key_value_set(f"jaxgpt/{key}", word, allow_overwrite=True)

    def told(self, folder: str) -> dict[str, str]:
        """All words below a key, by what follows it; raises RuntimeError if process 0 is gone."""
        prefix = f"jaxgpt/{folder}/"
        return {
            key.removeprefix(prefix): word for key, word in self._client.key_value_dir_get(prefix)
        }

    def _next(self, name: str) -> str:
        self._turns[name] += 1
        return f"{name}/{self._turns[name]}"

    def _hear(self, key: str, end: float = math.inf) -> str:
        while self.failure is None and time.monotonic() < end:
            try:
                return self._client.blocking_key_value_get(f"jaxgpt/{key}", _TURN)
            except RuntimeError as error:
                if not str(error).startswith(_LATE):
                    raise
        raise self.failure or PeerError("another process does not answer")


def _flat(tree: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {name: tree}
    inner = (_flat(value, f"{name}.{key}" if name else key) for key, value in tree.items())
    return {key: value for part in inner for key, value in part.items()}


_alone = Group()
_joined: list[Group] = []


def join_group(group: Group) -> None:
    """Let `this_group` be that one from here on."""
    _joined.append(group)


def this_group() -> Group:
    """The processes of the run that this process takes part in; itself alone, if it joined none."""
    return _joined[-1] if _joined else _alone
