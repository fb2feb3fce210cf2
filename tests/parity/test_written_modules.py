"""GPTs in PyTorch as people write them are recorded whole, and their faults are named."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from jaxgpt.parity.compare import compare, to_text
from jaxgpt.parity.diagnosis.differences import differences
from jaxgpt.parity.recordings.recording import Recording, record_model
from jaxgpt.parity.recordings.torch_module import record_module
from jaxgpt.parity.trace import activation_names

V, S, D, H, L = 40, 16, 32, 4, 2
TOKENS = np.random.default_rng(0).integers(V, size=(1, 11), dtype=np.int32)


class LayerNorm(nn.Module):
    """nanoGPT's, which has no attribute for its epsilon."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(D)), nn.Parameter(torch.zeros(D))

    def forward(self, x):
        return functional.layer_norm(x, (D,), self.weight, self.bias, 1e-5)


class RMSNorm(nn.Module):
    def __init__(self, eps=1e-6):
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.ones(D))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class CausalSelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.n_head = H
        self.c_attn, self.c_proj = nn.Linear(D, 3 * D), nn.Linear(D, D)

    def forward(self, x):
        q, k, v = (y.unflatten(-1, (H, -1)).transpose(1, 2) for y in self.c_attn(x).split(D, dim=2))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).flatten(-2))


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.c_fc, self.c_proj, self.gelu = nn.Linear(D, 4 * D), nn.Linear(4 * D, D), nn.GELU()

    def forward(self, x):
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    norm = LayerNorm

    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = self.norm(), self.norm()
        self.attn, self.mlp = CausalSelfAttention(), MLP()

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGPT(nn.Module):
    """Logits of the last token alone, unless it is given targets; and a loss."""

    def __init__(self, block=Block, norm=LayerNorm):
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(V, D),
                "wpe": nn.Embedding(S, D),
                "drop": nn.Dropout(0.0),
                "h": nn.ModuleList(block() for _ in range(L)),
                "ln_f": norm(),
            }
        )
        self.lm_head = nn.Linear(D, V, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def stream(self, idx):
        positions = torch.arange(idx.shape[1])
        x = self.transformer.drop(self.transformer.wte(idx) + self.transformer.wpe(positions))
        for block in self.transformer.h:
            x = block(x)
        return self.transformer.ln_f(x)

    def forward(self, idx, targets=None):
        x = self.stream(idx)
        if targets is None:
            return self.lm_head(x[:, [-1], :]), None
        logits = self.lm_head(x)
        loss = functional.cross_entropy(logits.view(-1, V), targets.view(-1), ignore_index=-1)
        return logits, loss


class MinBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.attn = CausalSelfAttention()
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(D, 4 * D), "c_proj": nn.Linear(4 * D, D)})
        self.mlpf = lambda x: self.mlp.c_proj(self.gelu(self.mlp.c_fc(x)))

    def gelu(self, x):
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlpf(self.ln_2(x))


class MinGPT(NanoGPT):
    """All logits, and a loss or None; the head is a matrix of its own."""

    def __init__(self):
        super().__init__(MinBlock, lambda: nn.LayerNorm(D))
        self.lm_head.weight = nn.Parameter(self.lm_head.weight.clone())

    def forward(self, idx, targets=None):
        return self.lm_head(self.stream(idx)), None


class LastOnly(NanoGPT):
    """(B, V), and no argument that would change it."""

    def forward(self, idx):
        return super().forward(idx)[0][:, -1]


class InMapping(NanoGPT):
    def forward(self, idx):
        return {"logits": self.lm_head(self.stream(idx)), "loss": None}


class MoreThanOne(NanoGPT):
    """As Hugging Face's with `return_dict=False`: logits, then what a cache would hold."""

    def forward(self, idx):
        return self.lm_head(self.stream(idx)), [idx]


class LastInSpite(NanoGPT):
    """(B, V), whatever the targets."""

    def forward(self, idx, targets=None):
        return self.lm_head(self.stream(idx)[:, -1])


class LossFirst(NanoGPT):
    """As Hugging Face's with labels: the loss, then the logits."""

    def forward(self, idx, labels=None):
        logits = self.lm_head(self.stream(idx))
        return None if labels is None else logits.mean(), logits


class NeedsTargets(NanoGPT):
    """Flat logits, as the loss takes them, and no default for the targets."""

    def forward(self, idx, targets):
        logits = self.lm_head(self.stream(idx)).flatten(0, 1)
        return logits, functional.cross_entropy(logits, targets.flatten())


def seeded(make):
    """The module with no parameter left at one or zero, by a seed of its own."""
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        *(NanoGPT, MinGPT, LastOnly, InMapping, MoreThanOne),
        *(LastInSpite, LossFirst, NeedsTargets),
    ],
)
def test_whatever_is_returned_all_is_recorded_and_equal(make):
    theirs = record_module(seeded(make), TOKENS)
    assert set(theirs.activations) == set(activation_names(L))
    assert theirs.activations["logits"].shape == (1, 11, V)
    comparison = compare(record_model(theirs.config, theirs.params, TOKENS), theirs)
    assert comparison.equal, comparison
    assert {row.kind for row in comparison.rows} == {"activation", "loss", "gradient"}
    how = {
        NanoGPT: "gives all logits only with targets",
        LastOnly: "was run on each beginning",
        LastInSpite: "was run on each beginning",
        NeedsTargets: "was run with targets, which it needs",
    }
    assert (
        [how[make] in note for note in theirs.notes] == [True] if make in how else not theirs.notes
    )


# ---------------------------------------------------------------------------- planted


class NoAttentionShortcut(Block):
    def forward(self, x):
        x = self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NoFeedForwardShortcut(Block):
    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return self.mlp(self.ln_2(x))


class NoShortcut(Block):
    def forward(self, x):
        return self.mlp(self.ln_2(self.attn(self.ln_1(x))))


class NormedShortcut(Block):
    def forward(self, x):
        x = self.ln_1(x)
        x = x + self.attn(x)
        return x + self.mlp(self.ln_2(x))


class PostNorm(Block):
    def forward(self, x):
        x = self.ln_1(x + self.attn(x))
        return self.ln_2(x + self.mlp(x))


class NormedOutputs(Block):
    def forward(self, x):
        x = x + self.ln_1(self.attn(x))
        return x + self.ln_2(self.mlp(x))


class RMSBlock(Block):
    norm = RMSNorm


class NoFirstNorm(Block):
    def __init__(self):
        super().__init__()
        self.ln_1 = nn.Identity()


PLANTED = {
    "no shortcut of attention": (
        lambda: NanoGPT(NoAttentionShortcut),
        "blocks.0.middle",
        ["has no shortcut (residual connection) around attention"],
    ),
    "no shortcut of the feed-forward": (
        lambda: NanoGPT(NoFeedForwardShortcut),
        "blocks.0",
        ["has no shortcut (residual connection) around the feed-forward network"],
    ),
    "no shortcut": (
        lambda: NanoGPT(NoShortcut),
        "blocks.0.middle",
        [
            "has no shortcut (residual connection) around attention",
            "has no shortcut (residual connection) around the feed-forward network",
        ],
    ),
    "shortcut of the normed stream": (
        lambda: NanoGPT(NormedShortcut),
        "blocks.0.middle",
        ["adds what attention gives to the normed stream, not to the stream itself"],
    ),
    "post-norm": (
        lambda: NanoGPT(PostNorm),
        "blocks.0.norm1",
        ["norms after each sum (post-norm), not before attention and feed-forward (pre-norm)"],
    ),
    "norms of outputs": (
        lambda: NanoGPT(NormedOutputs),
        "blocks.0.norm1",
        ["norms what attention and feed-forward give, not what enters them (pre-norm)"],
    ),
    "RMSNorm": (
        lambda: NanoGPT(RMSBlock, RMSNorm),
        "blocks.0.norm1",
        ["has RMSNorm in place of every layer norm, with epsilon 1e-06"],
    ),
    "PyTorch's RMSNorm": (
        lambda: NanoGPT(norm=lambda: nn.RMSNorm(D)),
        "norm",
        [
            "has RMSNorm in place of the last norm alone, with epsilon 1e-06 or 1e-08 or 1.19e-07",
        ],
    ),
    "no last norm": (lambda: NanoGPT(norm=nn.Identity), "norm", ["leaves out the last norm"]),
    "no first norm": (
        lambda: NanoGPT(NoFirstNorm),
        "blocks.0.norm1",
        ["leaves out the first norm of a block"],
    ),
}


@pytest.fixture(scope="module")
def whole():
    """What jaxgpt computes with the parameters of the module that has no fault."""
    healthy = seeded(NanoGPT)
    recording = record_module(healthy, TOKENS)
    return healthy, record_model(recording.config, recording.params, TOKENS)


@pytest.mark.slow_but_first
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_named(name, whole):
    healthy, ours = whole
    make, first, causes = PLANTED[name]
    model = make()
    model.load_state_dict(healthy.state_dict(), strict=False)
    theirs = record_module(model, TOKENS)
    comparison = compare(ours, theirs)
    assert comparison.first is not None
    assert comparison.first.name == first
    # Where a norm has fewer parameters, that is a difference of its own.
    assert [
        x.removeprefix("B ") for x in comparison.causes if "blocks." not in x and " norm." not in x
    ] == causes
    assert "every activation agrees" in comparison.outcome


@pytest.mark.slow_but_first
@pytest.mark.parametrize("name", ["no shortcut of attention", "post-norm", "RMSNorm"])
def test_a_planted_fault_is_named_by_the_activations_alone(name, whole):
    """As of a program of which nothing else is known."""
    make, _, causes = PLANTED[name]
    model = make()
    model.load_state_dict(whole[0].state_dict(), strict=False)
    alone = Recording("alone", TOKENS, record_module(model, TOKENS).activations)
    comparison = compare(whole[1], alone)
    assert comparison.causes == tuple(f"B {cause}" for cause in causes)
    assert "every activation agrees" in comparison.outcome


def test_a_missing_norm_is_in_the_notes():
    note, *_ = record_module(NanoGPT(norm=nn.Identity), TOKENS).notes
    assert note == "has no norm.scale, norm.bias"


def test_scales_that_some_layers_lack_are_ones():
    model = seeded(NanoGPT)
    model.transformer.h[1].ln_1 = nn.LayerNorm(D, elementwise_affine=False)
    theirs = record_module(model, TOKENS)
    scales = theirs.params["blocks"]["norm1"]["scale"]
    assert (scales[1] == 1).all()
    assert not (scales[0] == 1).any()
    assert not theirs.gradients["blocks.norm1.scale"][1].any()
    rows = differences(record_model(theirs.config, theirs.params, TOKENS), theirs)
    assert not any(row.differs for row in rows if row.kind == "activation")


# ---------------------------------------------------------------------------- no GPT


class NoGPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(V, D), nn.Linear(D, V)

    def forward(self, tokens):
        return self.head(self.table(tokens))


@pytest.mark.whole_run
def test_of_a_module_that_is_no_gpt_it_is_said_what_was_compared(whole):
    _, ours = whole
    theirs = record_module(NoGPT(), TOKENS)
    comparison = compare(ours, theirs)
    assert comparison.causes == ()
    assert "nothing before logits was compared" in comparison.outcome
    assert "agrees" not in comparison.outcome
    assert "of the activations, only logits could be compared" in to_text(comparison, ours, theirs)


@pytest.mark.whole_run
def test_where_nothing_was_compared_in_between_that_is_said(whole):
    _, ours = whole
    kept = {name: ours.activations[name] for name in ("embed", "blocks.0", "logits")}
    other = Recording("other", TOKENS, kept | {"logits": kept["logits"] + 1})
    outcome = compare(ours, other).outcome
    assert "blocks.0 agrees and nothing from there to logits was compared" in outcome
