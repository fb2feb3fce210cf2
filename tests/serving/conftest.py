"""Servers on a free port of this machine, with a tiny model."""

import threading
from contextlib import contextmanager

import pytest

from jaxgpt.assistant.turn_encoder import TurnEncoder
from jaxgpt.finetuning.templates import TEMPLATES
from jaxgpt.serving.app import make_app
from jaxgpt.serving.config import ServingConfig
from jaxgpt.serving.listen import bind, is_loopback, listen, url_of
from jaxgpt.serving.served import ServedModel


@contextmanager
def running(served, config):
    """The URL of a server in a thread of its own."""
    bound, up, stops = bind(config), threading.Event(), []

    def ready(stop):
        stops.append(stop)
        up.set()

    app = make_app(served, config, loopback=is_loopback(bound))
    thread = threading.Thread(
        target=listen, args=(app, config, bound, served.engine.close, ready), daemon=True
    )
    thread.start()
    assert up.wait(20)
    try:
        yield url_of(bound)
    finally:
        stops[0]()
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def serve(base):
    """`serve(engine, **settings)`: a context in which a model's URL is served."""

    def serve(engine, *, model=base, chat=True, **settings):
        length = model.config.context_length
        encoder = TurnEncoder(TEMPLATES["chat"], model.tokenizer, length) if chat else None
        served = ServedModel("tiny", model, engine, length, engine.stats().slots, encoder)
        settings = {"port": 0, "drain_seconds": 1.0} | settings
        return running(served, ServingConfig(**settings))

    return serve
