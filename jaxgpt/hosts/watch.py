"""A thread that shows the other processes that this one is alive, and looks after them.

Through it they stop at one step when one of them is asked to, and a process that cannot go on
without another leaves with one line, whatever its main thread waits for.
"""

import json
import os
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from typing import NoReturn

from jaxgpt.errors import PeerError
from jaxgpt.hosts.group import Group
from jaxgpt.terminal import complain

GO_ON = "run the same command again to go on from the newest checkpoint"

_PULSE, _AGREEING = 0.5, 0.05  # seconds between looks at the store
_PROCESSES = 100  # that the store can tell of in a second
_SUSPECT = 6.0  # seconds of silence that are enough once a device could not reach another
_GRACE = 5.0  # seconds in which the main thread may leave by itself, and clear up
_HEARD = 4.0  # seconds in which the others hear why a process ends


class Watch(threading.Thread):
    """The processes of `group` as this one hears them; it runs until `finish`, or the end."""

    signal: int | None = None
    """The signal by which the processes have agreed to stop."""

    def __init__(self, group: Group, patience: float) -> None:
        super().__init__(name="jaxgpt-watch", daemon=True)
        self._group, self._patience = group, patience
        self._pulse = max(_PULSE, group.count / _PROCESSES)
        self._lock, self._leaving = threading.Lock(), threading.Lock()
        self._over = threading.Event()
        self._step = self._asked = 0  # the signal that this process got
        self._stop_at: int | None = None
        self._agreeing = False
        now = time.monotonic()
        self._heard: dict[int, tuple[str, float]] = dict.fromkeys(range(group.count), ("", now))
        self._failed_at = 0.0

    def run(self) -> None:
        """Give and look for signs of life."""
        beats, answered = 0, time.monotonic()
        while not self._over.is_set():
            beats += 1
            try:
                self._tell("alive", str(beats))
                if self._asked:
                    self._tell("stop", str(self._asked))
                words = self._group.told("life")
                answered = time.monotonic()
                self._listen(words)
                self._agree(words)
            except RuntimeError:
                if time.monotonic() - answered > self._patience:
                    self._fail(PeerError(f"process 0 cannot be reached any more; {GO_ON}"))
            if (failure := self._group.failure) and time.monotonic() - self._failed_at > _GRACE:
                self.leave_after(failure)
            self._over.wait(_AGREEING if self._agreeing else self._pulse)

    def ask_to_stop(self, number: int) -> None:
        """Let all processes stop at one step because of a signal; may be called in its handler."""
        self._asked = self._asked or number

    def stopped(self, step: int) -> bool:
        """Whether all processes have agreed to stop when they have taken so many steps."""
        with self._lock:
            self._step = step
            return self._stop_at is not None and step >= self._stop_at

    def finish(self) -> None:
        """Tell the others that this process has done its part, and look after them no longer.

        What looks at the store while JAX puts it away ends the process by a segmentation fault.
        """
        with suppress(RuntimeError):
            self._tell("left", "")
        self._over.set()
        if self.is_alive():
            self.join(_GRACE)

    def suspect(self) -> PeerError | None:
        """What has befallen another process, after a device could not reach it; None if nothing."""
        self._patience = min(self._patience, _SUSPECT)
        end = time.monotonic() + self._patience + 4 * self._pulse
        while self._group.failure is None and time.monotonic() < end:
            time.sleep(self._pulse / 2)
        return self._group.failure

    def leave(self, text: str, code: int) -> NoReturn:
        """End this process, and tell why: the others hear it, and process 0 prints it for all."""
        with self._leaving:
            told, index = json.dumps([code, text]), self._group.index
            with suppress(RuntimeError):
                self._tell("failed", told)
            if self._group.is_first:
                self._print_for_all(text)
            else:
                words = self._await({"seen/0"})
                if "seen/0" not in words or words.get("failed/0", told) != told:
                    complain(f"error: process {index}: {text}")
            os._exit(code)

    def leave_after(self, failure: PeerError) -> NoReturn:
        """End this process because another has ended."""
        with self._leaving:
            if self._group.is_first:
                self._print_for_all(str(failure))
            elif not failure.told and self._are_silent(range(self._group.index)):
                complain(f"error: {failure}")
            os._exit(failure.exit_code)

    def _print_for_all(self, text: str) -> None:
        """Print why the run ends, and keep the store until the others have heard it."""
        complain(f"error: {text}")
        with suppress(RuntimeError):
            self._tell("seen", "")
            self._await({f"seen/{index}" for index in range(1, self._group.count)})

    def _await(self, keys: set[str]) -> dict[str, str]:
        end, words = time.monotonic() + _HEARD, {}
        with suppress(RuntimeError):
            while not keys <= (words := self._group.told("life")).keys():
                if time.monotonic() > end:
                    break
                time.sleep(_AGREEING)
        return words

    def _tell(self, name: str, word: str) -> None:
        self._group.tell(f"life/{name}/{self._group.index}", word)

    def _listen(self, words: dict[str, str]) -> None:
        """Take the signs of life, and note which process has failed or given none."""
        now = time.monotonic()
        for index, (before, _) in self._heard.items():
            if (word := words.get(f"alive/{index}", "")) != before or f"left/{index}" in words:
                self._heard[index] = word, now
        for index in range(self._group.count):
            if index == self._group.index:
                continue
            if (told := words.get(f"failed/{index}")) is not None:
                code, text = json.loads(told)
                self._tell("seen", "")  # at once, for the main thread may be long in leaving
                self._fail(
                    PeerError(f"process {index}: {text}" if index else text, code, told=True)
                )
            elif self._are_silent([index]):
                self._fail(
                    PeerError(
                        f"process {index} has given no sign of life for {self._patience:.0f} "
                        f"seconds: it was killed, or its machine or the network failed; {GO_ON}"
                    )
                )

    def _are_silent(self, indices: Collection[int]) -> bool:
        now = time.monotonic()
        return all(now - self._heard[index][1] > self._patience for index in indices)

    def _fail(self, failure: PeerError) -> None:
        if self._group.failure is None:
            self._failed_at = time.monotonic()
            self._group.failure = failure

    def _agree(self, words: dict[str, str]) -> None:
        """Go on with an agreement to stop: at the step after the last that any process is at.

        From when a process has told at which step it is until it has heard of all, it takes none.
        """
        asked = [int(words[key]) for key in sorted(words) if key.startswith("stop/")]
        if not asked or self._stop_at is not None:
            return
        if not self._agreeing:
            self._lock.acquire()
            self._agreeing = True
        self._tell("at", str(self._step))  # again, should the store have failed to take it
        steps = [words.get(f"at/{index}") for index in range(self._group.count)]
        if None not in steps:
            self._stop_at, self.signal = max(map(int, filter(None, steps))) + 1, asked[0]
            self._agreeing = False
            self._lock.release()
