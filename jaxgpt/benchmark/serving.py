"""The suite `serve`: a server of its own on this machine, asked by one stream and by many."""

import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgpt.benchmark.decoding import varied_start
from jaxgpt.benchmark.machine import describe_machine
from jaxgpt.benchmark.report import Report
from jaxgpt.benchmark.turns import Turns, cpu_times, share_of_others, take_turns
from jaxgpt.benchmark.workload import describe
from jaxgpt.config import TrainConfig
from jaxgpt.config_file import to_dict
from jaxgpt.errors import ConfigError, JaxgptError
from jaxgpt.tokenization.tokenizer import ByteTokenizer
from jaxgpt.training.checkpoint import LoadedModel, save_model

_ALONE, _TOGETHER, _JOINING = "alone", "together", "joins the others"
_SECONDS = 600  # for one answer
_STOP_SECONDS = 30
_PROBES = 5  # streams of a turn whose first tokens are waited for, one after another


def measure_serving(
    config: TrainConfig,
    folder: str = "",
    *,
    streams: int = 16,
    prompt_tokens: int = 64,
    new_tokens: int = 128,
    turns: int = 3,
) -> Report:
    """Time streams of `new_tokens` after prompts of `prompt_tokens`, each another one.

    By turns there is one stream at a time, then `streams` at once, then short ones that join the
    others while these are written. The model is that in `folder`, or of the config with random
    parameters and a token for each byte. Raises ConfigError if its context has no room, JaxgptError
    if the server fails.
    """
    with tempfile.TemporaryDirectory(prefix="jaxgpt-benchmark-") as made:
        if not folder:
            config = _of_bytes(config)
            tokenizer, path = ByteTokenizer(), Path(made) / "model"
            save_model(path, LoadedModel(config.model, varied_start(config), tokenizer, 0, config))
        before = cpu_times()
        with _server(folder or str(Path(made) / "model"), streams, Path(made)) as port:
            load = _Load(port, streams, prompt_tokens, new_tokens)
            load.alone()  # does not count
            works = {_ALONE: load.alone, _TOGETHER: load.together, _JOINING: load.joining}
            taken = take_turns(works, turns)
        # Only once it has ended is the server's time known to be of this benchmark.
        others = share_of_others(before, cpu_times())
    return Report(
        suite="serve",
        shape=f"{folder or describe(config.model)}, prompt {prompt_tokens} + {new_tokens} tokens",
        config={"model": folder} if folder else to_dict(config),
        machine=describe_machine(),
        rows=_rows(taken, streams),
        figure="tokens_per_second",
        others=others,
        seconds=taken.window,
        notes=("tokens/s counts new tokens of all streams; a turn takes in the prompts, too",),
    )


def _of_bytes(config: TrainConfig) -> TrainConfig:
    """The config with a vocabulary that has room for a token for each byte."""
    size = max(config.model.vocab_size, ByteTokenizer.vocab_size)
    return replace(config, model=replace(config.model, vocab_size=size))


@contextmanager
def _server(folder: str, slots: int, made: Path) -> Iterator[int]:
    """The port of a server in a process of its own, which only this machine reaches."""
    command = [sys.executable, "-m", "jaxgpt", "serve", folder, "--host", "127.0.0.1"]
    command += ["--port", "0", "--slots", str(slots), "--drain-seconds", "0"]
    variables = {"JAXGPT_API_KEY": ""}
    variables |= {"JAX_PLATFORMS": "cpu"} if jax.default_backend() == "cpu" else {}
    with open(made / "log.txt", "w") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | variables
        )
    assert process.stdout is not None
    try:
        found = re.match(r"http://127\.0\.0\.1:(\d+) ", process.stdout.readline())
        if not found:
            process.wait()
            last = ((made / "log.txt").read_text().strip().splitlines() or ["it said nothing"])[-1]
            raise JaxgptError(f"the server did not start: {last}")
        yield int(found[1])
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


class _Load:
    """Requests to the server, whose prompts are all different."""

    def __init__(self, port: int, streams: int, prompt_tokens: int, new_tokens: int):
        self._port = port
        self._streams = streams
        self._prompt_tokens, self._new_tokens = prompt_tokens, new_tokens
        model = self._model()
        length, needed = model["context_length"], prompt_tokens + new_tokens
        if needed > length:
            raise ConfigError(
                f"context_length is {length}, but {prompt_tokens} tokens of prompt and "
                f"{new_tokens} new ones need {needed}; take --shape small or larger, or fewer "
                "tokens"
            )
        self._size = min(model["vocab_size"], ByteTokenizer.vocab_size)
        self._random = np.random.default_rng(0)
        self._pool = ThreadPoolExecutor(streams)

    def alone(self) -> tuple[list[float], int]:
        """Seconds to the first token of streams one after another, and how many tokens they are."""
        firsts = [self._stream(self._prompt(), self._new_tokens) for _ in range(_PROBES)]
        return firsts, _PROBES * self._new_tokens

    def together(self) -> tuple[list[float], int]:
        """The same of all streams, which begin at once."""
        return [other.result() for other in self._begin(self._streams)], self._tokens_of_all()

    def joining(self) -> tuple[list[float], int]:
        """The same of short ones that join, one after another, while all others are written."""
        others, firsts = self._begin(self._streams - 1), []
        while self._busy() < len(others) and not any(other.done() for other in others):
            time.sleep(0.005)
        while len(firsts) < _PROBES and not (firsts and any(other.done() for other in others)):
            firsts.append(self._stream(self._prompt(), 1))
        for other in others:
            other.result()
        return firsts, self._tokens_of_all() - self._new_tokens + len(firsts)

    def _begin(self, count: int) -> list[Future[float]]:
        prompts = [self._prompt() for _ in range(count)]
        return [self._pool.submit(self._stream, prompt, self._new_tokens) for prompt in prompts]

    def _tokens_of_all(self) -> int:
        return self._streams * self._new_tokens

    def _prompt(self) -> list[int]:
        return self._random.integers(0, self._size, self._prompt_tokens).tolist()

    def _stream(self, prompt: list[int], new_tokens: int) -> float:
        """Read a stream to its end; the seconds to its first token."""
        body = {
            "prompt": prompt,
            "max_tokens": new_tokens,
            "temperature": 0,
            "ignore_end_of_text": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        began, first, parts = time.perf_counter(), None, []
        with self._asked("POST", "/v1/completions", json.dumps(body)) as response:
            # Looked at once all is there, so that who asks takes little from who answers.
            while part := response.read1():
                first = first or time.perf_counter() - began
                parts.append(part)
        written = 0
        for line in b"".join(parts).splitlines():
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if "error" in event:
                    raise JaxgptError(f"the server failed: {event['error']['message']}")
                if event.get("usage"):
                    written = event["usage"]["completion_tokens"]
        if first is None or written != new_tokens:
            raise JaxgptError(f"a stream has {written} tokens instead of {new_tokens}")
        return first

    def _model(self) -> dict[str, Any]:
        with self._asked("GET", "/v1/models") as response:
            return json.load(response)["data"][0]

    def _busy(self) -> int:
        with self._asked("GET", "/health") as response:
            return json.load(response)["busy"]

    @contextmanager
    def _asked(
        self, method: str, path: str, body: str | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_SECONDS)
        with closing(connection):
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                said = response.read(300).decode(errors="replace")
                raise JaxgptError(f"the server answers {response.status} to {path}: {said}")
            yield response


def _rows(taken: Turns, streams: int) -> list[dict[str, Any]]:
    counts = {_ALONE: 1, _TOGETHER: streams, _JOINING: streams}
    rows = []
    for name, seconds in taken.seconds.items():
        results = taken.results[name]
        firsts = [first for turn, _ in results for first in turn]
        rates = [tokens / s for (_, tokens), s in zip(results, seconds, strict=True)]
        rows.append(
            {
                "contender": name,
                "streams": counts[name],
                "tokens_per_second": statistics.median(rates),
                "first_token_ms": 1e3 * statistics.median(firsts),
                "turns_ms": [1e3 * second for second in seconds],
            }
        )
    for row in rows:
        row["times_alone"] = row["tokens_per_second"] / rows[0]["tokens_per_second"]
        row["first_times_alone"] = row["first_token_ms"] / rows[0]["first_token_ms"]
    return rows
