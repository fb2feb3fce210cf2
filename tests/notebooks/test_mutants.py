"""Ten errors, planted in a copy of the package, each of which a notebook meets."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Each: the cheapest notebook that must fail, a file of the package, what stands there, the error.
MUTANTS = {
    "mask off by one": (
        "04_attention",
        ("model/attention.py", "mask = places <= asking", "mask = places <= asking + 1"),
    ),
    "no scale": ("04_attention", ("model/attention.py", "1 / math.sqrt(queries.shape[-1])", "1.0")),
    "scale by K": (
        "04_attention",
        ("model/attention.py", "1 / math.sqrt(queries.shape[-1])", "1 / queries.shape[-1]"),
    ),
    "unbiased variance": (
        "05_model",
        (
            *("model/layers.py", "jnp.square(centred).mean(-1, keepdims=True)"),
            "wide.var(-1, keepdims=True, ddof=1)",
        ),
    ),
    "epsilon outside the root": (
        "11_parity",
        (
            *("model/layers.py", "centred * jax.lax.rsqrt(variance + epsilon)"),
            "centred / (jnp.sqrt(variance) + epsilon)",
        ),
    ),
    "erf for tanh": (
        "05_model",
        ("model/layers.py", "approximate=tanh", "approximate=False"),
    ),
    "untied head": ("05_model", ("config.py", "tie_head: bool = True", "tie_head: bool = False")),
    "position + 1": (
        "03_vectors",
        (
            *("model/embedding.py", "positions_table[: tokens.shape[-1]]"),
            "positions_table[1 : 1 + tokens.shape[-1]]",
        ),
    ),
    "Adam without bias correction": (
        "11_parity",
        ("training/optimizer.py", "optax.tree.bias_correction(mu, beta1[0], count)", "mu"),
        ("training/optimizer.py", "optax.tree.bias_correction(nu, beta2[0], count)", "nu"),
    ),
    "top-p below p": (
        "11_parity",
        (
            "generation/sampling.py",
            "likeliest(logits, jax.nn.softmax(logits, axis=-1), target)",
            "(chance := jax.nn.softmax(logits, axis=-1)) + jnp.where("
            "chance[:, None] > chance[..., None], chance[:, None], 0).sum(-1) <= target",
        ),
    ),
}


@pytest.mark.whole_run
@pytest.mark.parametrize("name", MUTANTS)
def test_a_notebook_meets_an_error_of_the_package(name, tmp_path):
    notebook, *changes = MUTANTS[name]
    shutil.copytree(
        ROOT / "jaxgpt", tmp_path / "jaxgpt", ignore=shutil.ignore_patterns("__pycache__")
    )
    for file, right, wrong in changes:
        path = tmp_path / "jaxgpt" / file
        text = path.read_text()
        assert text.count(right) == 1
        path.write_text(text.replace(right, wrong))
    settings = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-W", "error", f"{notebook}.py"],
        cwd=ROOT / "notebooks",
        env=settings | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"{notebook}.py" in done.stderr
    assert "AssertionError" in done.stderr, done.stderr
