"""Trees of arrays on disk, by Orbax: the only file that knows it."""

import asyncio
import copy
import gc
import itertools
import logging
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxgpt.errors import CheckpointError, ResourceError
from jaxgpt.hosts.group import this_group
from jaxgpt.training.pace import Pace, current_pace

_PLAIN = re.compile(r"[A-Za-z0-9_./=@,+-]*")
_FAILURES = (ValueError, KeyError, TypeError, OSError, AttributeError, RuntimeError)
# Also in what Orbax raises, and in what `why` has made of it.
_FULL = ("No space left on device", "Disk quota exceeded", "the disk is full")
_FELT = 1 << 26  # bytes of a tree, from which on a step feels its writing
_LAST_WORDS = 0.2  # seconds in which the threads of a failed save end
_turns = itertools.count()


def write_arrays(folder: Path, tree: Any) -> None:
    """Write a tree as the new folder `folder`, and check it; raises ResourceError if it cannot.

    Of several processes, each writes what lies on its own devices, and all are to call it.
    """
    stored, failure = {}, ""
    with _quiet():
        try:
            with _plain(folder) as path, _checkpointer(_pace_of(tree)) as checkpointer:
                checkpointer.save(path, tree)
                stored = _leaves(checkpointer.metadata(path).item_metadata.tree)
        except _FAILURES as error:
            failure = why(error)
        if failure:  # its threads and tasks end here, where they cannot be heard
            time.sleep(_LAST_WORDS)
            gc.collect()
    if failure or stored != _leaves(tree):
        failure = failure or "other arrays are there than were sent"
        raise ResourceError(f"{folder.name} could not be written: {failure}")


def why(error: Exception, place: Path | None = None, needed: int = 0) -> str:
    """What kept something of `needed` bytes from being written to `place`, in a line."""
    text = str(error)
    if any(words in text for words in _FULL):
        free = needed if place is None else shutil.disk_usage(place).free
        if needed <= free:  # as where a quota is full
            return "the disk is full; make room"
        return (
            f"the disk is full: a checkpoint takes up to {needed / 1e6:,.1f} MB, and "
            f"{free / 1e6:,.1f} MB are free; make room for {(needed - free) / 1e6:,.1f} MB"
        )
    return text.splitlines()[0] if text else repr(error)


def read_arrays(folder: Path, template: Any) -> Any:
    """The tree in `folder`, in the shapes, dtypes and shardings of `template`.

    Raises CheckpointError if it holds other arrays, which Orbax would cast without a word.
    """
    # Without a sharding, Orbax restores onto the devices that the checkpoint was written from.
    here = jax.device_put(0).sharding
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or here
        ),
        template,
    )
    try:
        with _plain(folder) as path, _checkpointer() as checkpointer:
            stored = checkpointer.metadata(path).item_metadata.tree
            _check_leaves(_leaves(stored), _leaves(abstract), folder)
            args = ocp.checkpoint_utils.construct_restore_args(abstract)
            return checkpointer.restore(path, item=abstract, restore_args=args)
    except _FAILURES as error:
        raise CheckpointError(f"{folder} cannot be restored: {error}") from None


def stored_shapes(folder: Path) -> Any:
    """Shapes and dtypes of the tree in `folder`, in dicts and lists, as `read_arrays` takes it.

    Raises CheckpointError if they cannot be read.
    """
    try:
        with _plain(folder) as path, _checkpointer() as checkpointer:
            stored = checkpointer.metadata(path).item_metadata.tree
    except _FAILURES as error:
        raise CheckpointError(f"{folder} cannot be restored: {error}") from None
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), stored)


@contextmanager
def _plain(folder: Path) -> Iterator[Path]:
    """An absolute path to `folder` that has no character with a meaning of its own for Orbax.

    It takes a path for a pattern, a URL, or a foreign system's: a folder named `r[1]` is written
    and then not found. Such a folder is reached by a link elsewhere.
    """
    path = folder.absolute()
    if _PLAIN.fullmatch(str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="jaxgpt-", dir=_plain_temporary()) as place:
        link = Path(place, "folder")
        link.symlink_to(path.parent)
        yield link / path.name


def _plain_temporary() -> str:
    for place in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if _PLAIN.fullmatch(place) and Path(place).is_dir():
            return place
    raise OSError(f"{tempfile.gettempdir()} is no plain name; set TMPDIR to a folder that has one")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Orbax's threads from printing the tracebacks of what is raised anyway.

    Where jaxgpt's logger is at the level of debugging, they may.
    """
    if logging.getLogger("jaxgpt").isEnabledFor(logging.DEBUG):
        yield
        return
    loggers, hook = [logging.getLogger(name) for name in ("absl", "asyncio")], sys.unraisablehook
    before = {logger: logger.disabled for logger in loggers}
    for logger in loggers:
        logger.disabled = True
    sys.unraisablehook = lambda _: None
    try:
        yield
    finally:
        for logger, disabled in before.items():
            logger.disabled = disabled
        sys.unraisablehook = hook


def _checkpointer(pace: Pace | None = None) -> Any:
    # Orbax's asynchronous one, where it fails, leaves threads that wait for minutes.
    group = this_group()
    options = ocp.options.MultiprocessingOptions()
    if group.count > 1:
        # So named, it waits for the other processes without their devices, which may be in a step.
        options = ocp.options.MultiprocessingOptions(
            active_processes=set(range(group.count)),
            barrier_sync_key_prefix=f"jaxgpt-{next(_turns)}",
        )
    # Weights hardly shrink, and to compress them takes most of the time of a save.
    handler = ocp.PyTreeCheckpointHandler(
        use_compression=False,
        multiprocessing_options=options,
        **({} if pace is None else {"type_handler_registry": _paced(pace)}),
    )
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def _pace_of(tree: Any) -> Pace | None:
    """The pace to write at, where steps on the same processor feel the writing."""
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    return current_pace() if jax.default_backend() == "cpu" and size >= _FELT else None


def _paced(pace: Pace) -> Any:
    """Orbax's registry of what writes jax.Arrays, one piece at a time, with pauses.

    A limit of bytes also keeps Orbax from one transaction of all, which would write in one go.
    """
    handler: Any = copy.copy(ocp.type_handlers.get_type_handler(jax.Array))
    serialize = handler.serialize

    async def serialize_paced(values: Any, infos: Any, args: Any = None) -> Any:
        pauses = _Pauses(pace)
        return await serialize(values, [info.replace(byte_limiter=pauses) for info in infos], args)

    handler.serialize = serialize_paced
    return ocp.type_handlers.create_type_handler_registry((jax.Array, handler))


class _Pauses:
    """Pauses between pieces of arrays, in the form of Orbax's limit of bytes on their way."""

    def __init__(self, pace: Pace) -> None:
        self._pace, self._turn, self._began = pace, asyncio.Lock(), 0.0

    async def wait_for_bytes(self, requested_bytes: int) -> None:
        await self._turn.acquire()
        self._began = time.monotonic()

    async def release_bytes(self, requested_bytes: int) -> None:
        try:
            for seconds in self._pace.pause(time.monotonic() - self._began):
                await asyncio.sleep(seconds)
        finally:
            self._turn.release()


def _leaves(tree: Any) -> dict[str, str]:
    """Shape and dtype by name, the same before and after Orbax, which keeps no named tuples."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{tuple(leaf.shape)} {leaf.dtype}"
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _check_leaves(have: dict[str, str], want: dict[str, str], folder: Path) -> None:
    odd = next((x for x in sorted(have | want) if have.get(x) != want.get(x)), None)
    if odd is not None:
        raise CheckpointError(
            f"{folder} holds other arrays than the model has: {odd} is {have.get(odd, 'not there')}"
            f" where {want.get(odd, 'none')} is wanted; set model and optimizer as they were, or "
            "name another --out"
        )
