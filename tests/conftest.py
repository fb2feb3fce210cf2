"""Eight simulated CPU devices, set before anything imports jax; and parameters worth testing on."""

import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

# Many tests compile the same small programs; each is compiled once for all of them.
_FIRST_PROCESS = "PYTEST_XDIST_WORKER" not in os.environ
if _FIRST_PROCESS:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxgpt-xla-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def pytest_unconfigure():
    if _FIRST_PROCESS:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="session")
def random_params():
    """`random_params(config)`: no leaf is 0 or 1 throughout, so that every leaf matters."""
    # Not at the top: the annotations are enforced in what is imported after this file.
    from jaxgpt.model.gpt import parameter_shapes

    def make(config, seed=0):
        noise = np.random.default_rng(seed)

        def leaf(path, shape):
            values = 0.1 * noise.standard_normal(shape.shape, dtype=np.float32)
            return jnp.asarray(values + (path[-1].key == "scale"))

        return jax.tree.map_with_path(leaf, parameter_shapes(config))

    return make
