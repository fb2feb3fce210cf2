"""Processes agree by words in a store; here they are threads, and the store is a dict."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from jaxgpt.errors import ConfigError, PeerError, ResourceError
from jaxgpt.hosts import group as group_module
from jaxgpt.hosts.group import Group
from jaxgpt.hosts.watch import Watch


class Store:
    """What JAX's coordination service is to a process."""

    def __init__(self):
        self.words, self.gone = {}, False

    def _check(self):
        if self.gone:
            raise RuntimeError("UNAVAILABLE: Socket closed")

    def key_value_set(self, key, word, *, allow_overwrite):
        self._check()
        self.words[key] = word

    def key_value_dir_get(self, prefix):
        self._check()
        return [(key, word) for key, word in dict(self.words).items() if key.startswith(prefix)]

    def blocking_key_value_get(self, key, milliseconds):
        end = time.monotonic() + milliseconds / 1000
        while key not in self.words:
            self._check()
            if time.monotonic() > end:
                raise RuntimeError("DEADLINE_EXCEEDED: GetKeyValue() timed out")
            time.sleep(0.001)
        return self.words[key]


@pytest.fixture
def groups(monkeypatch):
    monkeypatch.setattr(group_module, "_TURN", 20)
    store = Store()
    return [Group(index, 3, store) for index in range(3)]


def each(groups, function):
    """What `function` returns or raises on each process, all at once."""

    def run(group):
        try:
            return function(group)
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(groups)) as pool:
        return list(pool.map(run, groups))


def test_all_hear_what_each_gives_and_what_the_first_gives(groups):
    for turn in range(2):
        given = each(groups, lambda group, turn=turn: group.exchange("a", [group.index, turn]))
        assert given == [[[0, turn], [1, turn], [2, turn]]] * 3
    assert each(groups, lambda group: group.from_first("b", group.index)) == [0, 0, 0]


def test_one_process_agrees_with_itself():
    group = Group()
    assert group.exchange("a", 1) == [1]
    assert group.from_first("a", 2) == 2
    with group.first_alone("a"), group.together("b"):
        group.check_alike({"a": 1})


def test_the_first_is_alone_until_it_is_through(groups):
    order = []

    def enter(group):
        with group.first_alone("a"):
            time.sleep(0.02 if group.is_first else 0)
            order.append(group.index)

    each(groups, enter)
    assert order[0] == 0


def test_a_difference_names_the_process_and_the_setting(groups):
    found = each(
        groups,
        lambda group: group.check_alike({"steps": 5, "model": {"width": 16 + (group.index == 2)}}),
    )
    for error in found:
        assert isinstance(error, ConfigError)
        assert str(error).startswith("process 2 has model.width 17, but process 0 has 16;")


def test_what_fails_on_one_fails_on_all(groups):
    def write(group):
        with group.together("write"):
            if group.index == 1:
                raise ResourceError("the disk is full")

    found = each(groups, write)
    assert [str(error) for error in found] == [
        "process 1: the disk is full",
        "the disk is full",
        "process 1: the disk is full",
    ]
    assert all(isinstance(error, ResourceError) for error in found)


def test_what_fails_while_the_others_wait_within_it_ends_this_one(groups, monkeypatch):
    monkeypatch.setattr(group_module, "_PATIENCE", 0.05)
    with pytest.raises(PeerError, match="process 1: the disk is full"), groups[1].together("write"):
        raise ResourceError("the disk is full")


def test_who_waits_for_a_process_that_failed_hears_of_it(groups):
    def run(group):
        group.failure = PeerError("process 2: no", 3, told=True) if group.index < 2 else None
        return group.index == 2 or group.exchange("a", 0)

    first, second, _ = each(groups, run)
    assert (first.exit_code, second.exit_code) == (3, 3)


def beat(watches, words=None):
    """A look at the store by each watch, as its thread takes it."""
    for watch in watches:
        watch._tell("alive", str(time.monotonic()))
    for watch in watches:
        found = watch._group.told("life")
        watch._listen(found)
        watch._agree(found)


def test_a_signal_to_one_stops_all_behind_the_last_that_any_has_taken(groups):
    watches = [Watch(group, 60.0) for group in groups]
    for watch, step in zip(watches, (4, 6, 5), strict=True):
        assert not watch.stopped(step)
    beat(watches)
    watches[1].ask_to_stop(15)
    watches[1]._tell("stop", "15")
    beat(watches)
    # Who has not heard of all waits with its next step.
    waiting = threading.Thread(target=watches[0].stopped, args=(5,), daemon=True)
    waiting.start()
    beat(watches)
    waiting.join(5)
    assert [watch.signal for watch in watches] == [15, 15, 15]
    assert [[watch.stopped(step) for step in (6, 7)] for watch in watches] == [[False, True]] * 3


def test_what_the_store_did_not_take_is_told_again(groups, monkeypatch):
    watches = [Watch(group, 60.0) for group in groups]
    watches[0]._tell("stop", "15")
    told = watches[1]._tell

    def fails(name, word):
        monkeypatch.setattr(watches[1], "_tell", told)
        raise RuntimeError("UNAVAILABLE")

    monkeypatch.setattr(watches[1], "_tell", fails)
    with pytest.raises(RuntimeError):
        beat(watches[1:2])
    for _ in range(2):
        beat(watches)
    assert [watch.signal for watch in watches] == [15, 15, 15]


def test_a_silent_process_counts_as_dead_and_one_that_is_done_does_not(groups):
    watches = [Watch(group, 0.05) for group in groups]
    beat(watches)
    watches[2].finish()
    end = time.monotonic() + 5
    while groups[0].failure is None and time.monotonic() < end:
        time.sleep(0.01)
        beat([watches[0]])
    failure = groups[0].failure
    assert str(failure).startswith("process 1 has given no sign of life for 0 seconds")
    assert (failure.exit_code, failure.told) == (6, False)


def test_a_failure_is_heard_with_its_reason_and_its_code(groups):
    watches = [Watch(group, 60.0) for group in groups]
    watches[1]._tell("failed", '[3, "no text"]')
    beat(watches[:1])
    assert str(groups[0].failure) == "process 1: no text"
    assert (groups[0].failure.exit_code, groups[0].failure.told) == (3, True)
