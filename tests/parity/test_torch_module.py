"""Foreign PyTorch models, recorded by jaxgpt's names, are equal to jaxgpt on their parameters."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from jaxgpt.config import ModelConfig
from jaxgpt.errors import CheckpointError, ConfigError, DataError
from jaxgpt.parity.compare import compare
from jaxgpt.parity.recordings.recording import Recording, record_model
from jaxgpt.parity.recordings.torch_file import load_module
from jaxgpt.parity.recordings.torch_module import record_module
from jaxgpt.parity.torch_reference import from_params
from jaxgpt.parity.trace import activation_names

V, S, D, H, L = 40, 16, 32, 4, 2
CONFIG = ModelConfig(vocab_size=V, context_length=S, num_layers=L, num_heads=H, embed_dim=D)
TOKENS = np.random.default_rng(0).integers(V, size=(1, 11), dtype=np.int32)


class BookNorm(nn.Module):
    eps = 1e-5

    def __init__(self):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(D)), nn.Parameter(torch.zeros(D))

    def forward(self, x):
        x = x - x.mean(-1, keepdim=True)
        return (
            self.scale * x / torch.sqrt(x.square().mean(-1, keepdim=True) + self.eps) + self.shift
        )


class BookAttention(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.num_heads = H
        self.W_query, self.W_key, self.W_value = (nn.Linear(D, D, bias=bias) for _ in range(3))
        self.out_proj = nn.Linear(D, D)

    def forward(self, x):
        maps = (self.W_key, self.W_query, self.W_value)
        keys, queries, values = (m(x).unflatten(-1, (H, -1)).transpose(1, 2) for m in maps)
        context = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return self.out_proj(context.transpose(1, 2).flatten(-2))


class BookFeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        gelu = nn.GELU(approximate="tanh")
        self.layers = nn.Sequential(nn.Linear(D, 4 * D), gelu, nn.Linear(4 * D, D))

    def forward(self, x):
        return self.layers(x)


class BookBlock(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.att, self.ff = BookAttention(bias), BookFeedForward()
        self.norm1, self.norm2 = BookNorm(), BookNorm()

    def forward(self, x):
        x = x + self.att(self.norm1(x))
        return x + self.ff(self.norm2(x))


class Book(nn.Module):
    """Named as the teaching book names its GPT."""

    def __init__(self, bias=False):
        super().__init__()
        self.tok_emb, self.pos_emb = nn.Embedding(V, D), nn.Embedding(S, D)
        self.trf_blocks = nn.Sequential(*(BookBlock(bias) for _ in range(L)))
        self.final_norm, self.out_head = BookNorm(), nn.Linear(D, V, bias=False)

    def forward(self, tokens):
        x = self.tok_emb(tokens) + self.pos_emb(torch.arange(tokens.shape[1]))
        return self.out_head(self.final_norm(self.trf_blocks(x)))


class Wrapped(nn.Module):
    """A model inside another, as trainers keep it."""

    def __init__(self, model):
        super().__init__()
        self.inner = model

    def forward(self, tokens):
        return self.inner(tokens)


def hugging_face(**settings):
    config = GPT2Config(
        vocab_size=V,
        n_positions=S,
        n_embd=D,
        n_layer=L,
        n_head=H,
        bos_token_id=0,
        eos_token_id=0,
        **settings,
    )
    return GPT2LMHeadModel(config).eval()


def without_biases(model):
    """As nanoGPT with bias=False."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm) or type(module).__name__ == "Conv1D":
            module.register_parameter("bias", None)
    for module in model.modules():
        if type(module).__name__ == "Conv1D":
            module.forward = lambda x, module=module: x @ module.weight
    return model


MODELS = {
    "book": Book,
    "book with biases": lambda: Book(bias=True),
    "book in a wrapper": lambda: Wrapped(Book()),
    "hugging face eager": lambda: hugging_face(attn_implementation="eager"),
    "hugging face sdpa": hugging_face,
    "hugging face untied": lambda: hugging_face(tie_word_embeddings=False),
    "without biases": lambda: without_biases(hugging_face()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_foreign_model_is_equal_to_jaxgpt_on_its_parameters(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    theirs = record_module(model, TOKENS)
    assert set(theirs.activations) == set(activation_names(L))
    assert theirs.evaluated is None
    assert theirs.config is not None
    assert theirs.config.num_heads == H
    ours = record_model(theirs.config, theirs.params, TOKENS)
    comparison = compare(ours, theirs)
    assert comparison.equal, comparison
    assert max(row.relative for row in comparison.rows) > 0
    gradients = [row for row in comparison.rows if row.kind == "gradient"]
    assert len(gradients) == len(theirs.gradients) >= 9


def test_absent_biases_are_zeros_and_said_to_be_absent():
    recording = record_module(without_biases(hugging_face()), TOKENS)
    assert "blocks.attn.out.bias" in recording.notes[0]
    assert "blocks.attn.out.bias" not in recording.gradients
    assert not np.any(recording.params["blocks"]["attn"]["out"]["bias"])
    assert recording.config.qkv_bias is False


def test_settings_are_read_off():
    model = hugging_face(layer_norm_epsilon=1e-3, tie_word_embeddings=False)
    config = record_module(model, TOKENS).config
    assert config == ModelConfig(
        vocab_size=V,
        context_length=S,
        num_layers=L,
        num_heads=H,
        embed_dim=D,
        tie_head=False,
        norm_epsilon=1e-3,
    )


def test_sinusoids_are_no_parameters(random_params):
    config = dataclasses.replace(CONFIG, positions="sinusoidal", gelu="erf")
    recording = record_module(from_params(config, random_params(config)), TOKENS)
    assert recording.config == config
    assert "embed.positions" not in recording.gradients


def test_nothing_is_changed():
    model = hugging_face()
    model.train()
    before = jax.tree.map(lambda x: x.clone(), dict(model.state_dict()))
    recording = record_module(model, TOKENS)
    assert recording.evaluated is not None  # dropout is on
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    jax.tree.map(np.testing.assert_array_equal, dict(model.state_dict()), before)
    assert not any(module._forward_hooks for module in model.modules())


class Unknown(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(V, D), nn.Linear(D, V)

    def forward(self, tokens):
        return self.head(self.table(tokens))


def test_a_module_of_no_family_gives_logits_and_loss():
    recording = record_module(Unknown(), TOKENS)
    assert list(recording.activations) == ["logits"]
    assert recording.loss == pytest.approx(np.log(V), rel=0.5)
    assert "trf_blocks.0.att.out_proj" in recording.notes[0]


@pytest.mark.whole_run
def test_the_cause_is_found_by_the_logits_alone(random_params):
    config = dataclasses.replace(CONFIG, num_layers=1)
    params = random_params(config)
    ours = record_module(from_params(config, params), TOKENS)
    theirs = record_module(from_params(dataclasses.replace(config, gelu="erf"), params), TOKENS)
    logits = {"logits": theirs.activations["logits"]}
    comparison = compare(ours, Recording("foreign", TOKENS, logits, theirs.loss))
    assert [row.name for row in comparison.rows] == ["logits", "loss"]
    assert comparison.causes == ("B computes GELU by erf, not by tanh",)


class Returns(Unknown):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, tokens):
        return self.change(super().forward(tokens))


def test_noise_that_is_no_dropout_is_not_called_so():
    recording = record_module(Returns(lambda logits: logits + torch.rand(1)), TOKENS)
    assert recording.evaluated is None
    assert "in evaluation mode too" in recording.notes[-1]


def test_rounding_that_differs_from_run_to_run_is_no_noise():
    recording = record_module(Returns(lambda logits: logits * (1 + 1e-6 * torch.rand(1))), TOKENS)
    assert recording.evaluated is None
    assert len(recording.notes) == 1


def test_what_is_not_a_number_repeats():
    recording = record_module(Returns(lambda logits: logits * torch.nan), TOKENS)
    assert recording.evaluated is None
    assert len(recording.notes) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits: logits[:, :2], "it must be logits of shape"),
        (lambda logits: logits.argmax(-1), "it must be logits of shape"),
        (lambda logits: [logits], "returns a list"),
        (lambda logits: logits @ logits, "raises RuntimeError"),
        (lambda logits: 1 / 0, "raises ZeroDivisionError: division by zero"),
    ],
)
def test_modules_that_do_not_give_logits_are_refused(change, message):
    with pytest.raises(CheckpointError, match=message):
        record_module(Returns(change), TOKENS)


def test_a_module_that_lacks_a_part_is_refused():
    model = Book()
    del model.trf_blocks[1].ff
    with pytest.raises(CheckpointError, match=r"has no trf_blocks\.1\.ff\.layers\.0"):
        record_module(model, TOKENS)


def test_the_number_of_heads_comes_from_the_module_or_from_outside():
    model = Book()
    for block in model.trf_blocks:
        del block.att.num_heads
    assert record_module(model, TOKENS, num_heads=2).config.num_heads == 2
    with pytest.raises(CheckpointError, match="nothing tells the number of heads"):
        record_module(model, TOKENS)
    with pytest.raises(CheckpointError, match="5 heads, where the width is 32"):
        record_module(model, TOKENS, num_heads=5)


def test_tokens_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="token id 40 is outside"):
        record_module(Book(), np.array([[1, 40]]))
    with pytest.raises(ConfigError, match="takes 2 to 16 tokens, not 17"):
        record_module(Book(), np.zeros((1, 17), np.int32))
    with pytest.raises(ConfigError, match="not 1; give a longer text"):
        record_module(Book(), np.zeros((1, 1), np.int32))


def test_a_file_gives_its_module(tmp_path):
    path = tmp_path / "model.py"
    (tmp_path / "parts.py").write_text("WIDTH = 3\n")
    path.write_text(
        "import parts, torch\n\n"
        "def make_model():\n    return torch.nn.Linear(parts.WIDTH, 2)\n\n"
        "def number():\n    return 3\n"
    )
    assert load_module(path, "make_model").in_features == 3
    for function, message in (
        ("number", "returns a int; it must be a torch.nn.Module"),
        ("other", "has no function other"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_module(path, function)
    path.write_text("1 / 0\n")
    with pytest.raises(CheckpointError, match="raises ZeroDivisionError: division by zero"):
        load_module(path, "make_model")
    with pytest.raises(CheckpointError, match="is not a file"):
        load_module(tmp_path / "none.py", "make_model")
