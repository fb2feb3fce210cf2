"""Answers to the exercises of notebook 03: the right ones, and wrong ones with their hints."""

import jax.numpy as jnp
import numpy as np


def _waves(length, width, *, first=0, step=2, even=np.sin, odd=np.cos):
    places = np.arange(first, first + length)[:, None]
    angles = places * 10_000.0 ** (-np.arange(0, width // 2) * step / width)
    return np.stack([even(angles), odd(angles)], axis=-1).reshape(length, width)


def solution(length, width):
    """Sines in the even columns, cosines in the odd ones, in float64 until the end."""
    return _waves(length, width)


def _in_halves(length, width):
    waves = _waves(length, width)
    return np.concatenate([waves[:, ::2], waves[:, 1::2]], axis=1)


def _in_float32(length, width):
    frequencies = jnp.float32(10_000) ** (-jnp.arange(0, width, 2) / width)
    angles = jnp.arange(length)[:, None] * frequencies
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(length, width)


def _by_column(length, width):
    column = np.arange(width)
    angles = np.arange(length)[:, None] * 10_000.0 ** (-column / width)
    return np.where(column % 2, np.cos(angles), np.sin(angles))


RIGHT = {"03.1": (8, 4, 16), "03.2": solution, "03.3": "places"}

WRONG = {
    "03.1": [
        ((8, 4, 32), "not put side by side"),
        ((8, 8, 16), "no further tokens"),
        ((4, 16), "every text of the batch"),
        ((12, 16), "changes no shape"),
        ("8 x 4 x 16", "a shape is wanted"),
        (512, "a shape is wanted"),
    ],
    "03.2": [
        (_in_halves, "take turns"),
        (lambda length, width: _waves(length, width, even=np.cos, odd=np.sin), "sines come first"),
        (lambda length, width: _waves(length, width, first=1), "count from 0"),
        (lambda length, width: _waves(length, width, step=1), "2 i / D"),
        (lambda length, width: _waves(length, width, odd=np.sin), "cosines, and here sines"),
        (lambda length, width: _waves(length, width, step=4), "2 i / D"),
        (_by_column, "2 i / D"),
        (lambda length, width: _waves(length, width).astype(np.float16), "in place of"),
        (_in_float32, "float64"),
        (lambda length, width: _waves(width, length), "has shape"),
        (lambda length, width: _waves(length, width) * 2, "in place of"),
    ],
    "03.3": [
        ("scale", "unscaled"),
        ("tables", "its own row"),
        ("product", "they are added"),
        ("positions", "one of these words"),
    ],
}
