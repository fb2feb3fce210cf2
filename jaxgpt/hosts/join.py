"""A process joins those of its run, before it uses any device."""

import os
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from jaxgpt.errors import ConfigError
from jaxgpt.hosts.group import Group, join_group, this_group
from jaxgpt.hosts.options import AUTO, HostOptions
from jaxgpt.hosts.watch import GO_ON, Watch
from jaxgpt.terminal import complain, mute

_MARGIN = 10  # seconds by which JAX's own ways to notice come behind ours
_OF_JAX = "JAX distributed service"  # stands in what it says before it aborts
_watches: list[Watch] = []


def this_watch() -> Watch | None:
    """The thread that looks after the processes of this one's run; None if it has joined none."""
    return _watches[-1] if _watches else None


def join_processes(options: HostOptions) -> Group:
    """Join the processes of the run that `options` name, wait for all of them, and watch them.

    To be called by each process, before JAX uses a device. From then on those but process 0 print
    nothing but errors. Raises ConfigError where the address, or what the cluster says, will not do.
    A process ends with exit code 6 if not all have come within `options.start_timeout`.
    """
    import jax

    check_host(options)
    known = {
        "coordinator_address": options.coordinator,
        "num_processes": options.num_processes,
        "process_id": options.process_id,
    }
    jax.config.update("jax_enable_preemption_service", False)  # it would take the signals
    with _at_most(options):
        try:
            jax.distributed.initialize(
                **(known if options.num_processes else {}),
                initialization_timeout=options.start_timeout + _MARGIN,
                heartbeat_timeout_seconds=options.peer_timeout + _MARGIN,
            )
        except (RuntimeError, ValueError) as error:
            why, where = str(error).splitlines()[0], options.coordinator or AUTO
            raise ConfigError(
                f"--coordinator {where}: {why}; name HOST:PORT, a free port of the machine of "
                "process 0"
            ) from None
    return _enter(options.peer_timeout)


def _enter(patience: float) -> Group:
    from jax._src.distributed import global_state  # its store has no public name

    group = Group(global_state.process_id, global_state.num_processes, global_state.client)
    if group.count == 1:
        return group
    if not group.is_first:
        mute()
        warnings.simplefilter("ignore")
    join_group(group)
    _watches.append(Watch(group, patience))
    _watches[-1].start()
    return group


def explain_abort(said: str) -> tuple[str, int] | None:
    """What an abort means in which JAX's runtime `said` this: a line, or none, and the exit code.

    None where the abort is another's.
    """
    if _OF_JAX not in said:
        return None
    failure = this_group().failure
    if failure is None:
        return f"process 0, by which all are joined, has ended or cannot be reached; {GO_ON}", 6
    return "" if failure.told else str(failure), failure.exit_code


def check_host(options: HostOptions) -> None:
    """Raise ConfigError if the coordinator's name is not known here."""
    if not options.num_processes:
        return
    host = options.coordinator.rpartition(":")[0]
    try:
        socket.getaddrinfo(host.strip("[]"), None)
    except OSError as error:
        raise ConfigError(
            f"--coordinator {options.coordinator}: {host} is not known here ({error.strerror}); "
            "name the machine of process 0, or its address"
        ) from None


@contextmanager
def _at_most(options: HostOptions) -> Iterator[None]:
    """Leave if not all processes have come in time; by itself JAX would abort."""

    def leave() -> None:
        number = f"process {options.process_id}: " if options.num_processes else ""
        count, where = options.num_processes or "the", options.coordinator or "the coordinator"
        complain(
            f"error: {number}not all of {count} processes have come to {where} in "
            f"{options.start_timeout} seconds; start the missing ones with the same --coordinator, "
            "or raise --start-timeout"
        )
        os._exit(6)

    timer = threading.Timer(options.start_timeout, leave)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
