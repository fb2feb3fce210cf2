"""Small models to serve, and callers that keep what they are given."""

import dataclasses
import threading

import jax
import pytest


@dataclasses.dataclass
class Caller:
    """What is given to one request."""

    chunks: list = dataclasses.field(default_factory=list)
    ended: threading.Event = dataclasses.field(default_factory=threading.Event)
    ticket: object = None

    def __call__(self, chunk):
        assert not self.ended.is_set(), "a chunk after the last"
        self.chunks.append(chunk)
        if chunk.finish_reason is not None:
            self.ended.set()

    def wait(self):
        assert self.ended.wait(60), "no end"
        return self

    @property
    def ids(self):
        return [token.id for chunk in self.chunks for token in chunk.tokens]

    @property
    def tokens(self):
        return [token for chunk in self.chunks for token in chunk.tokens]

    @property
    def text(self):
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def reason(self):
        return self.chunks[-1].finish_reason


@pytest.fixture
def engines():
    """`engines(model, **options)`: an engine that was started, and is closed after the test."""
    from jaxgpt.serving.engine import Engine

    started = []

    def start(model, **options):
        engine = Engine(model, **options)
        engine.start()
        started.append(engine)
        return engine

    yield start
    for engine in started:
        engine.close(0)


@pytest.fixture(scope="session")
def ask():
    """`ask(engine, requests)`: submit all at once and wait for all; their callers."""

    def run(engine, requests):
        callers = [Caller() for _ in requests]
        for request, caller in zip(requests, callers, strict=True):
            caller.ticket = engine.submit(request, caller)
        return [caller.wait() for caller in callers]

    return run


@pytest.fixture(scope="session")
def caller():
    return Caller


@pytest.fixture(scope="session")
def served(random_params):
    """A prepared model of ASCII, with a context of 96 tokens."""
    from jaxgpt.config import ModelConfig

    return prepared(ModelConfig(128, 96, 2, 4, 32), random_params)


def prepared(config, random_params):
    from jaxgpt.generation.prepared_params import prepare_params
    from jaxgpt.generation.text import PreparedModel
    from jaxgpt.tokenization.tokenizer import ByteTokenizer

    # Large enough that texts do not end in one token over and over.
    params = jax.tree.map(lambda leaf: 3 * leaf, random_params(config))
    return PreparedModel(config, prepare_params(params), ByteTokenizer())
