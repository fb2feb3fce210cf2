"""Many requests of random sizes, of which some give up: no slot stays taken, no memory grows."""

import gc
import resource
import sys
import threading
import time

import jax
import numpy as np
import pytest

from jaxgpt.generation.sampling import SamplingConfig
from jaxgpt.serving.engine_types import Busy, Request

SHARED = np.random.default_rng(9).integers(0, 128, 60).tolist()
_MOST_GROWTH = 32 * 2**20  # bytes; what callers were given is let go


def live_bytes():
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def serve_many(engine, caller, count, seed):
    """Submit from four threads, with cancels before, amid and after; every caller sees one end."""
    failures, ends = [], []

    def work(thread):
        noise = np.random.default_rng((seed, thread))
        try:
            for i in range(count // 4):
                own = noise.integers(0, 128, noise.integers(1, 90)).tolist()
                request = Request(
                    # Some begin alike, as the turns of a chat do.
                    tuple([*SHARED[: noise.integers(0, 60)], *own][:90]),
                    int(noise.integers(1, 30)),
                    sampling=SamplingConfig(temperature=float(i % 2)),
                    seed=i,
                    stop=("ab", "\n") if i % 3 else (),
                    top_logprobs=3 if i % 7 == 0 else None,
                )
                each = caller()
                each.request = request
                while True:
                    try:
                        each.ticket = engine.submit(request, each)
                        break
                    except Busy:
                        time.sleep(0.002)
                if i % 4 == 0:
                    time.sleep(float(noise.uniform(0, 0.03)))
                    each.ticket.cancel()
                elif i % 4 == 1:
                    each.wait()
                ends.append(each)
            for each in ends[-3:]:
                each.wait()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    reasons = {each.wait().reason for each in ends}
    assert len(ends) == count
    assert reasons <= {"stop", "length", "cancelled"}
    stats = engine.stats()
    assert (stats.busy, stats.queued, stats.compiles) == (0, 0, 0)
    assert stats.cached_tokens > 0
    assert sum(stats.finished.values()) >= count
    return ends


def check_alone(engine, ask, callers):
    """Answers that nobody cut short are what an engine that has nothing else to do writes."""
    for each in callers:
        if each.reason != "cancelled":
            (alone,) = ask(engine, [each.request])
            assert alone.tokens == each.tokens
            assert (alone.text, alone.reason) == (each.text, each.reason)


def test_forty_requests_leave_no_slot_taken(served, engines, caller, ask):
    options = {"slots": 3, "prefill_chunk": 16}
    callers = serve_many(engines(served, queue=4, **options), caller, 40, 0)
    check_alone(engines(served, **options), ask, callers)


@pytest.mark.whole_run
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_thousand_requests_leave_no_slot_taken_and_no_memory(served, engines, caller, ask):
    engine = engines(served, slots=3, prefill_chunk=16, queue=4)
    serve_many(engine, caller, 200, 1)
    arrays, resident = live_bytes(), resident_bytes()
    callers = serve_many(engine, caller, 1000, 2)
    assert live_bytes() <= arrays
    assert resident_bytes() - resident < _MOST_GROWTH
    check_alone(engines(served, slots=3, prefill_chunk=16), ask, callers[::20])
