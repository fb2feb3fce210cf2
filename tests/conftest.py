"""Eight simulated CPU devices, set before anything imports jax; and parameters worth testing on."""

import dataclasses
import json
import os
import shutil
import tempfile
from importlib.metadata import version

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    # The programs are small and run a few times; to optimise them takes longer than it saves.
    + " --xla_backend_optimization_level=0"
    # A flag that XLA does not know ends the process; this one it had for a while.
    + " --xla_cpu_use_fusion_emitters=false" * version("jax").startswith("0.10.")
)

# XLA makes as many threads as devices, which two programs that overlap can all hold while each
# waits for a thread; with twice as many there is one.
os.environ.setdefault("NPROC", "16")

# What tests compare is computed in float32, however fast this machine multiplies bfloat16.
os.environ["JAXGPT_COMPUTE_DTYPE"] = "float32"

# No one reads where in the source an instruction comes from; to find that out takes time.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"

# Many tests compile the same small programs; each is compiled once for all of them.
_FIRST_PROCESS = "PYTEST_XDIST_WORKER" not in os.environ
if _FIRST_PROCESS:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxgpt-xla-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Make slow all cases of a test marked `slow_but_first`, but the first."""
    begun = set()
    for item in items:
        if item.get_closest_marker("slow_but_first") and not item.get_closest_marker("whole_run"):
            function = item.nodeid.partition("[")[0]
            if function in begun:
                item.add_marker("slow")
            begun.add(function)


def pytest_unconfigure():
    if _FIRST_PROCESS:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="session")
def random_params():
    """`random_params(config)`: no leaf is 0 or 1 throughout, so that every leaf matters."""
    # Not at the top: the annotations are enforced in what is imported after this file.
    from jaxgpt.model.parameters import parameter_shapes

    def make(config, seed=0):
        noise = np.random.default_rng(seed)

        def leaf(path, shape):
            values = 0.1 * noise.standard_normal(shape.shape, dtype=np.float32)
            return jnp.asarray(values + (path[-1].key == "scale" and not config.norm_offset))

        return jax.tree.map_with_path(leaf, parameter_shapes(config))

    return make


@pytest.fixture(scope="session")
def agree():
    """`agree(actual, expected, tolerance)`: no element is further off than that share of the
    largest element in its leaf and the leaf's siblings.

    Siblings share a measure because a key's bias has gradient 0, but for rounding: the softmax does
    not change when all scores of a row rise by the same. Its measure is the key's weight.
    """

    def check(actual, expected, tolerance):
        ours = dict(jax.tree.leaves_with_path(actual))
        theirs = dict(jax.tree.leaves_with_path(expected))
        assert ours.keys() == theirs.keys()
        largest = {}
        for path, leaf in theirs.items():
            largest[path[:-1]] = max(largest.get(path[:-1], 0.0), np.abs(leaf).max())
        for path, leaf in theirs.items():
            name = jax.tree_util.keystr(path)
            assert ours[path].shape == leaf.shape, name
            assert largest[path[:-1]] > 0, f"{name} is zero throughout, which shows nothing"
            error = np.abs(np.asarray(ours[path]) - np.asarray(leaf)).max() / largest[path[:-1]]
            assert error <= tolerance, f"{name} is {error:.1e} of the largest off"

    return check


@pytest.fixture(scope="session")
def base(random_params):
    """A LoadedModel of 2 layers whose tokenizer has an end-of-text token."""
    from jaxgpt.presets import get_preset
    from jaxgpt.tokenization.bpe import train_bpe
    from jaxgpt.training.checkpoint import LoadedModel

    text = "<|im_start|>user\nWho ran 17 times?<|im_end|>\n<|im_start|>assistant\nFinn ran to sea."
    tokenizer = train_bpe([text] * 9, 290)
    tiny = get_preset("tiny")
    # A head of its own, so that something is trained where all blocks are frozen.
    model = dataclasses.replace(
        tiny.model, vocab_size=290, context_length=64, embed_dim=16, num_layers=2, tie_head=False
    )
    config = dataclasses.replace(
        tiny, model=model, steps=1, optimizer=dataclasses.replace(tiny.optimizer, warmup_steps=0)
    )
    return LoadedModel(model, random_params(model), tokenizer, 0, config)


@pytest.fixture
def compiled_anew():
    """A list that grows by one whenever a program is compiled that no cache had."""
    found, counting = [], True

    def listen(event, **details):
        if counting and event == "/jax/compilation_cache/cache_misses":
            found.append(event)

    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    jax.monitoring.register_event_listener(listen)
    yield found
    counting = False
    jax.config.update(name, before)


@pytest.fixture
def base_folder(base, tmp_path):
    """The same as a checkpoint's folder."""
    from jaxgpt.training.checkpoint import save_model

    save_model(tmp_path / "base", base)
    return str(tmp_path / "base")


@pytest.fixture
def write(tmp_path):
    """`write(name, records)`: a file of them, an object a line; returns its path in a tuple."""

    def make(name, records):
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return (str(path),)

    return make
