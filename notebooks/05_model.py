# %% [markdown]
# # 05 The model
#
# **What you will build**: a GPT, from ids to scores for the next token. Attention (notebook 04)
# gets a partner that works on each word by itself; the two make a block, and blocks the model.
# You need Python and arrays; no machine learning. 30 minutes, and 2 GB of memory at the end.

# %%
import copy
import math
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

import jaxgpt
from course import book, check, figures, same
from course.exercises.model import suspect
from jaxgpt import GPT, ModelConfig, TorchGenerator, feed_forward, layer_norm, linear
from jaxgpt.model.flops import flops_per_token
from jaxgpt.model.schema import leaves
from jaxgpt.model.transformer import unstack

np.set_printoptions(precision=4, suppress=True)
tokenizer = jaxgpt.load_tokenizer("gpt2")
TEXTS = ("Every effort moves you", "Every day holds a")
batch = jnp.array([tokenizer.encode(text) for text in TEXTS])
print(batch)
book("ch04.batch", batch)

# %% [markdown]
# ## The path

# %%
figures.path_strip(
    "block",
    [TEXTS[0][:14] + "...", str(batch[0, :2].tolist())[:-1] + ", ...", "a row for each"]
    + ["notebook 04", "12 in a row", f"{tokenizer.vocab_size:,} scores"]
    + ["notebook 07"] * 2,
)

# %% [markdown]
# ## GPT architecture
#
# **The idea in a breath.** A GPT keeps a row of D numbers for each token, the **residual stream**
# (notebook 03). It passes through L equal **blocks**. Each reads it and adds to it, twice: first
# what attention finds in other words, then what a **feed-forward network** makes of each word by
# itself. At the end the **head** turns each row into V scores, one for every token that could come
# next: the **logits**.
#
# Two helpers make such a tower trainable: **norms** and **shortcuts**. The notebook takes the parts
# one by one, and then puts them together.

# %%
config = ModelConfig(vocab_size=50, context_length=8, num_layers=4, num_heads=2, embed_dim=16)
T, D, V = config.context_length, config.embed_dim, config.vocab_size
stages = ["ids", "embed", "block 1", "...", f"block {config.num_layers}", "norm", "head", "logits"]
shapes = [f"({T},)", *[f"({T}, {D})"] * 5, f"({T}, {V})"]
figure, axes = figures.new(11, 1.9)
axes.axis("off")
axes.set(xlim=(0, 11.1), ylim=(0, 1.7))
for place, stage in enumerate(stages):
    left = 1.42 * place
    figures.box(axes, left, 0.7, 0.85, 0.7, stage, lit=stage.startswith("block"))
    if place:
        figures.arrow(axes, (left - 0.54, 1.05), (left, 1.05))
        axes.text(left - 0.29, 0.5, shapes[place - 1], ha="center", va="top", fontsize=8.5)
figures.show(
    figure,
    "The model as a row of boxes: ids, embed, four blocks, norm, head, logits. Between them the "
    "shape: 8 ids, then 8 rows of 16 numbers from block to block, at the end 8 rows of 50 scores.",
)

# %% [markdown]
# ## Layer norm
#
# **The idea in a breath.** From layer to layer numbers grow or shrink, and what suits one size does
# not suit another. So before each layer, bring every row to mean 0 and variance 1.
#
# Two rows of five random numbers go through a small layer: a product with a matrix, and what is
# negative becomes 0. Mean and **variance** (the mean square of the distance from the mean) come out
# as they happen to.

# %%
generator = TorchGenerator(123)
x = jnp.asarray(generator.randn(2, 5))
out = jax.nn.relu(linear(x, **jax.tree.map(jnp.asarray, generator.linear(5, 6))))
print(out)
print("means", out.mean(-1), "variances", out.var(-1, ddof=1))
book("ch04.layer25", out)
book("ch04.layer25.moments", {"mean": out.mean(-1), "variance": out.var(-1, ddof=1)})

# %% [markdown]
# There are two variances. Divide the sum of squares by n, and it is the **biased** one; by n - 1,
# the unbiased one of statistics, which the cell above has. Layer norm takes the first. The wider
# the row, the less it matters; but in a row of 6 it is a fifth.

# %%
centred = out - out.mean(-1, keepdims=True)
biased = (centred**2).sum(-1) / 6
unbiased = (centred**2).sum(-1) / 5
print("biased", biased, "unbiased", unbiased, "ratio", unbiased / biased)
same(biased, out.var(-1))
same(unbiased, out.var(-1, ddof=1))

# %% [markdown]
# As a function. A small **epsilon** inside the root keeps a row of equal numbers from 0 / 0.
# `scale` and `bias`, a number for each column, are trained: where a layer is better off with other
# sizes, it can have them.


# %%
def norm(x, scale, bias, epsilon=1e-5):
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return centred / jnp.sqrt(variance + epsilon) * scale + bias


identity = jaxgpt.init_layer_norm(5)
normed = norm(x, **identity)
same(normed, layer_norm(x, **identity))
book("ch04.layer_norm.moments", {"mean": normed.mean(-1), "variance": normed.var(-1)})
print("a row of equal numbers:", norm(jnp.full(5, 7.0), **identity))
same(norm(100 * x + 7, **identity), normed, atol=1e-4)  # size and offset leave no trace

# %%
sizes, offsets = jnp.array([[0.2], [1.0], [4.0], [1.0]]), jnp.array([[0.0], [-6.0], [0.0], [5.0]])
rows = jnp.asarray(TorchGenerator(7).randn(4, 40)) * sizes + offsets
figure, panels = figures.new(11, 3.0, columns=2, sharey=True)
for axes, values, title in (
    (panels[0], rows, "what comes in"),
    (panels[1], norm(rows, 1.0, 0.0), "after layer norm"),
):
    for place, row in enumerate(values):
        axes.plot(row, [place] * 40, "|", ms=15, color=figures.SECOND)
        axes.plot(row.mean(), place, "D", ms=6, color=figures.LIT)
    axes.set(title=title, xlabel="number (no unit)", xlim=(-11, 11), yticks=range(4))
    axes.set_xticks(range(-10, 11, 5))
panels[0].set(ylabel="token", ylim=(3.6, -0.6))
figures.show(
    figure,
    "Four rows of forty numbers, as strokes on four lines. Before layer norm they have different "
    "widths and means, which are red diamonds; after it all have mean 0 and the same width.",
)

# %% [markdown]
# ## GELU
#
# **The idea in a breath.** Two matrix products in a row are a single one, whatever their numbers.
# So something that is not straight must stand between them: an **activation**.

# %%
first, second = (jnp.asarray(TorchGenerator(seed).randn(5, 5)) for seed in (1, 2))
same((x @ first) @ second, x @ (first @ second), atol=1e-5)

# %% [markdown]
# The simplest is **ReLU**: what is negative becomes 0. GPT-2 has **GELU**: a number times the
# probability that a normally distributed one is smaller. That probability needs the function `erf`;
# GPT-2 computes it nearly, by `tanh`.


# %%
def gelu_exact(x):
    return x * (1 + jax.lax.erf(x / math.sqrt(2))) / 2


def gelu_tanh(x):
    return x * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


line = jnp.linspace(-4, 4, 201)
same(gelu_exact(line), jaxgpt.gelu(line, "erf"))
same(gelu_tanh(line), jaxgpt.gelu(line))
print(f"the two differ by at most {jnp.abs(gelu_exact(line) - gelu_tanh(line)).max():.0e}")

# %%
figure, panels = figures.new(11, 3.2, columns=2)
for function, name, style, color in (
    (jax.nn.relu, "ReLU", "--", figures.LIT),
    (jaxgpt.gelu, "GELU", "-", figures.SECOND),
):
    panels[0].plot(line, function(line), style, color=color, label=name)
    panels[1].plot(line, jax.vmap(jax.grad(function))(line), style, color=color)
panels[0].set(xlabel="what comes in (no unit)", ylabel="what comes out")
panels[1].set(xlabel="what comes in (no unit)", ylabel="slope")
panels[0].legend(frameon=False)
figures.show(
    figure,
    "ReLU and GELU from -4 to 4, and their slopes: ReLU has a corner at 0 and slope 0 below, where "
    "GELU bends smoothly and its slope dips below 0 before it goes to 0.",
)

# %% [markdown]
# Why GELU? Below 0 ReLU has slope 0. A number that is negative for every text then sends no
# gradient back, and what made it learns no more. GELU's slope is 0 at one point only, and small
# further down.
#
# ## Feed-forward network
#
# **The idea in a breath.** Attention mixes words, and only by means. What can be concluded from
# the mixture is worked out for each word by itself: widen the row to 4 D, bend it, bring it back
# to D.

# %%
init_params = jax.jit(jaxgpt.init_params, static_argnums=0)  # compiled as a whole
params = init_params(config, jax.random.key(0))
layers = list(unstack(params["blocks"]))  # a dict of parameters for each block
mlp = layers[0]["mlp"]
print({name: leaf["weight"].shape for name, leaf in mlp.items()})
tokens = jax.random.normal(jax.random.key(1), (T, D))
hidden = gelu_tanh(linear(tokens, **mlp["up"]))
same(linear(hidden, **mlp["down"]), feed_forward(tokens, **mlp))
alone = jnp.stack([feed_forward(token, **mlp) for token in tokens])  # each word by itself
same(alone, feed_forward(tokens, **mlp))

# %% [markdown]
# ## Shortcut connections
#
# **The idea in a breath.** Add what went into a layer to what comes out. The row then has a way
# through the whole model on which nothing is multiplied, and so has the gradient on its way back.
#
# Training changes a weight by its gradient (notebook 03). The gradient of an early layer is a
# product with one factor for each later layer. Factors below 1 make it vanish. With a shortcut the
# factor is 1 plus something: the slope of x + f(x).


# %%
def gradients(layers, x, shortcut):
    """The mean size of the gradient in each of a chain of layers."""

    def loss(layers):
        stream = x
        for layer in layers:
            out = jaxgpt.gelu(linear(stream, **layer))
            stream = stream + out if shortcut and out.shape == stream.shape else out
        return (stream**2).mean()

    return [float(jnp.abs(layer["weight"]).mean()) for layer in jax.jit(jax.grad(loss))(layers)]


def chain(seed, widths):
    generator = TorchGenerator(seed)
    pairs = [generator.linear(*sizes) for sizes in pairwise(widths)]
    return jax.tree.map(jnp.asarray, pairs)


five = chain(123, [3, 3, 3, 3, 3, 1])
start = jnp.array([[1.0, 0.0, -1.0]])
book("ch04.shortcut.without", gradients(five, start, shortcut=False))
book("ch04.shortcut.with", gradients(five, start, shortcut=True))

# %%
deep, wide = chain(123, [64] * 25), jnp.asarray(TorchGenerator(1).randn(1, 64))
figure, panels = figures.new(11, 3.4, columns=2)
for axes, layers_of, x0 in ((panels[0], five, start), (panels[1], deep, wide)):
    count = range(1, len(layers_of) + 1)
    for shortcut, style, color in ((True, "o-", figures.SECOND), (False, "s--", figures.LIT)):
        name = "with shortcuts" if shortcut else "without"
        axes.plot(count, gradients(layers_of, x0, shortcut), style, ms=5, color=color, label=name)
    axes.set(yscale="log", xlabel=f"layer of {len(layers_of)}", ylabel="mean |gradient| (no unit)")
    axes.yaxis.set_major_formatter(lambda size, _: f"{size:g}")
panels[0].set_xticks(range(1, 6))
panels[1].legend(frameon=False, loc="center left")
figures.show(
    figure,
    "The size of the gradient by layer, on a log scale, in chains of 5 and of 24 layers. With "
    "shortcuts it is about as large in all; without, in the chain of 24, it is many powers of ten "
    "smaller in the first.",
)

# %% [markdown]
# ## Transformer block
#
# **The idea in a breath.** Norm, attention, add; norm, feed-forward, add. The norms stand on the
# branches, so that the stream itself runs through untouched.
#
# **Predict** (exercise 05.1, 4 minutes, difficulty 2): how many parameters has one block of width
# D = 128, with 2 heads? Count with a pencil. Attention has one matrix for queries, keys and values,
# (D, 3 D), and `out`, (D, D); the feed-forward network is 4 D wide inside. Every matrix has a bias,
# and each of two norms a scale and a bias.

# %%
answer = ...

# %%
check("05.1", answer)

# %%
rows = [leaf for leaf in leaves(ModelConfig()) if leaf.stacked]
size = {leaf.path: math.prod(leaf.shape(ModelConfig())) for leaf in rows}
print(f"{sum(size.values()):,} parameters in a block of GPT-2's smallest model, D = 768")
first_branch = (0.3, ("norm1", "attn.qkv", "heads", "attn.out"), ("D", "3 D", "D"))
second_branch = (5.75, ("norm2", "mlp.up", "GELU", "mlp.down"), ("D", "4 D", "4 D"))

# %%
figure, axes = figures.new(11, 3.2)
axes.axis("off")
axes.set(xlim=(0, 11.3), ylim=(-0.6, 2.9))
axes.plot([0, 11.2], [2.2, 2.2], lw=7, color=figures.QUIET, solid_capstyle="butt", zorder=0)
for begin, parts, widths in (first_branch, second_branch):
    axes.plot([begin, begin, begin + 0.2], [2.2, 0.78, 0.78], color=figures.INK, lw=1.2, zorder=0)
    for place, part in enumerate(parts):
        left = begin + 0.3 + 1.25 * place
        count = sum(number for path, number in size.items() if f".{part}." in path)
        figures.arrow(axes, (left - 0.3, 0.78), (left, 0.78))
        figures.box(axes, left, 0.4, 0.95, 0.75, part, lit="norm" not in part)
        axes.text(left + 0.47, 0.22, f"{count:,}", ha="center", va="top", fontsize=9)
        if place:
            axes.text(left - 0.15, 1.2, widths[place - 1], ha="center", fontsize=9)
    axes.plot([begin + 5, begin + 5.2], [0.78, 0.78], color=figures.INK, lw=1.2)
    figures.arrow(axes, (begin + 5.2, 0.78), (begin + 5.2, 2.0))
    figures.box(axes, begin + 4.98, 1.98, 0.44, 0.44, "+")
axes.text(0.02, 2.5, "the stream, (T, D)", fontsize=10)
axes.text(0.02, -0.45, "below each box: its parameters in GPT-2's smallest, D = 768", fontsize=9)
figures.show(
    figure,
    "A block as a circuit. The stream is a thick line; a branch leads off through norm1, attn.qkv, "
    "the heads and attn.out back to a plus on it, a second through norm2, mlp.up, GELU and "
    "mlp.down. Below each box stands its number of parameters.",
)

# %% [markdown]
# The first half by hand. `activations` runs a model and keeps what is computed on the way, by
# name; `middle` is the stream between attention and feed-forward.

# %%
ids = jnp.array([[3, 1, 4, 1, 5, 9, 2, 6]])
found = jaxgpt.activations(GPT(config, params), ids)
one = layers[0]
branch = layer_norm(found["embed"], **one["norm1"])
branch = jaxgpt.multi_head_attention(branch, **one["attn"], num_heads=2)
same(found["embed"] + branch, found["blocks.0.middle"])

# %% [markdown]
# The second half and the function are yours (exercise 05.2, 10 minutes, difficulty 2). Take
# `layer_norm`, `feed_forward` and `jaxgpt.multi_head_attention`; the last four arguments are dicts
# as in `layers[0]`, and a number. The check knows what goes wrong with norms and shortcuts.

# %%
answer = ...  # def yours(x, norm1, attn, norm2, mlp, num_heads): ...  and then: answer = yours

# %%
check("05.2", answer)

# %% [markdown]
# Blocks only add. So what leaves the last one is a sum: the embedding, and what each attention and
# each feed-forward network wrote. That is what the word residual stream means, and how notebook 08
# will find out which part of a trained model knows what.

# %%
written = [found[f"blocks.{i}.{part}.out"] for i in range(4) for part in ("attn", "mlp")]
same(found["embed"] + sum(written), found["blocks.3.out"])
out, cache = jaxgpt.block(found["embed"], **one, num_heads=2)
same(out, found["blocks.0.out"])
print("in", found["embed"].shape, "out", out.shape, "so that blocks can be stacked")

# %% [markdown]
# ## Blocks in a row
#
# `stack` runs all L blocks. Their parameters lie in one array with an axis of layers in front, and
# `jax.lax.scan` goes along it: one block is compiled, not L. The result is that of a loop.

# %%
stream = found["embed"]
for layer in layers:
    stream, _ = jaxgpt.block(stream, **layer, num_heads=2)
same(stream, jaxgpt.stack(found["embed"], params["blocks"], config))
print("one block", layers[0]["mlp"]["up"]["weight"].shape, end=", ")
print("all of them", params["blocks"]["mlp"]["up"]["weight"].shape)

# %% [markdown]
# What only adds, grows. With weights of standard deviation 0.02 everywhere, the variance of the
# stream would grow with depth. GPT-2 therefore draws the matrices that write into it smaller, by
# the root of 2 L, as 2 L of them write. Then a deep model starts as calmly as a shallow one.


# %%
def variances(x, blocks, block=jaxgpt.block):
    """The variance of the stream after each block."""

    def after(x, layer):
        out = block(x, **layer, num_heads=2)
        out = out[0] if isinstance(out, tuple) else out
        return out, out.var()

    return np.asarray(jax.lax.scan(after, x, blocks)[1])


L = 48
tall = ModelConfig(50, 32, num_layers=L, num_heads=2, embed_dim=128)
tall_params = init_params(tall, jax.random.key(0))
x0 = jaxgpt.embed(
    jnp.arange(32)[None],
    tokens_table=tall_params["embed"]["tokens"],
    positions_table=tall_params["embed"]["positions"],
)
blocks = tall_params["blocks"]
larger = copy.deepcopy(blocks)
for part, name in (("attn", "out"), ("mlp", "down")):
    larger[part][name]["weight"] *= math.sqrt(2 * L)

# %%
figure, axes = figures.new(7.5, 3.4)
depth = np.arange(1, L + 1)
for name, drawn, style, color in (
    ("0.02 everywhere", larger, "--", figures.LIT),
    ("0.02 / root of 2 L where it is written", blocks, "-", figures.SECOND),
):
    line = variances(x0, drawn)
    axes.plot(depth, line, style, color=color, label=name)
    print(f"{name:>40}: from {x0.var():.5f} to {line[-1]:.5f}")
axes.set(yscale="log", xlabel="block of 48", ylabel="variance of the stream (no unit)")
axes.yaxis.set_major_formatter(lambda size, _: f"{size:g}")
axes.legend(frameon=False)
figures.show(
    figure,
    "Variance of the stream after each of 48 blocks: it grows more than a hundredfold where all "
    "weights have the same size, and by little where those that write into it are smaller.",
)

# %% [markdown]
# ## The head
#
# A last norm, and each row is compared with every row of the token table: dot products again, V of
# them. The table is read twice, at the entry and here: the head is **tied**. Some models have a
# second matrix. And with that the model is complete:

# %%
x = jaxgpt.embed(
    ids,
    tokens_table=params["embed"]["tokens"],
    positions_table=params["embed"]["positions"],
)
x = jaxgpt.stack(x, params["blocks"], config)
x = layer_norm(x, **params["norm"])
logits = x @ params["embed"]["tokens"].T
same(logits, jaxgpt.unembed(x, tokens_table=params["embed"]["tokens"]))
same(logits, GPT(config, params)(ids))
print(ids.shape, "->", logits.shape, "a score for every token, at every place")

# %% [markdown]
# Softmax (notebook 04) makes probabilities of logits. A model that has not been trained finds every
# token about as likely as any other.

# %%
probabilities = np.sort(np.asarray(jax.nn.softmax(logits[0, -1])))[::-1]
figure, axes = figures.new(7.5, 2.9)
axes.bar(np.arange(V), probabilities, color=figures.SECOND, width=0.8)
axes.axhline(1 / V, color=figures.INK, ls="--", label="1 / V")
axes.set(xlabel="tokens of the vocabulary, likely ones first", ylabel="probability", ylim=(0, 0.04))
axes.legend(frameon=False)
print(f"from {probabilities[-1]:.3f} to {probabilities[0]:.3f}; 1 / V is {1 / V:.3f}")
figures.show(
    figure,
    "Probabilities of the 50 tokens as an untrained model gives them, in order: nearly flat, all "
    "close to the dashed line at one fiftieth.",
)

# %% [markdown]
# ## Parameters by pencil
#
# A block has 12 D² + 13 D, as you have counted. Add the tables, V D and T D, the last norm, 2 D,
# and V D more if the head is not tied.


# %%
def pencil(L, D, T, V, tied=True, qkv_bias=True):
    attention = 4 * D * D + D + (3 * D if qkv_bias else 0)
    feed, norms = 8 * D * D + 5 * D, 4 * D
    return (1 if tied else 2) * V * D + T * D + L * (attention + feed + norms) + 2 * D


shapes = {"small": (12, 12, 768), "medium": (24, 16, 1024)}
shapes |= {"large": (36, 20, 1280), "xl": (48, 25, 1600)}
for name, (L, H, D) in shapes.items():
    shape = ModelConfig(num_layers=L, num_heads=H, embed_dim=D, qkv_bias=False)
    tied, untied = (pencil(L, D, 1024, 50257, tie, qkv_bias=False) for tie in (True, False))
    assert tied == jaxgpt.count_parameters(shape)
    megabytes = round(untied * 4 / 2**20, 2)
    print(f"{name:>7}: {tied:>13,} tied, {untied:>13,} not, {megabytes:,} MB in float32")
    book(f"ch04.params.{name}", {"untied": untied, "tied": tied, "MB_fp32": megabytes})
book("ch04.params.gpt2_qkv_bias", pencil(12, 768, 1024, 50257, tied=False))
feed, attention = 8 * 768**2 + 5 * 768, 4 * 768**2 + 768
book("ch04.params.block", {"feed_forward": feed, "attention": attention})

# %% [markdown]
# The book's models have no bias for queries, keys and values, and the output head is a matrix of
# its own. GPT-2 has the bias, and its head is the token table; its smallest is the "124M". Where do
# its parameters lie?

# %%
groups = {"token table": ("embed.tokens",), "positions, norms": ("embed.positions", "norm")}
groups |= {"attention": ("attn",), "feed-forward": ("mlp",)}
colours = [figures.INK, "white", figures.SECOND, figures.QUIET]
figure, axes = figures.new(11, 3.0)
for row, (L, H, D) in enumerate(shapes.values()):
    shape, left = ModelConfig(num_layers=L, num_heads=H, embed_dim=D), 0.0
    total = jaxgpt.count_parameters(shape)
    for (group, parts), color in zip(groups.items(), colours, strict=True):
        own = [leaf for leaf in leaves(shape) if any(part in leaf.path for part in parts)]
        count = sum(math.prod(leaf.shape(shape)) * (L if leaf.stacked else 1) for leaf in own)
        share, edge = 100 * count / total, {"edgecolor": figures.INK, "lw": 0.8}
        axes.barh(row, share, left=left, color=color, label=None if row else group, **edge)
        if share > 5:
            dark = color in (figures.INK, figures.SECOND)
            text = {"color": "white" if dark else figures.INK, "ha": "center", "va": "center"}
            axes.text(left + share / 2, row, f"{count / 1e6:,.0f}M", **text)
        left += share
axes.set_yticks(range(4), list(shapes))
axes.set(xlabel="share of the parameters (%)", ylim=(3.6, -0.6), xlim=(0, 100))
axes.legend(frameon=False, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0))
figures.show(
    figure,
    "A bar for each of GPT-2's four sizes, cut by share: the token table is a third of the "
    "smallest and little of the largest, feed-forward networks twice as much as attention in all.",
)

# %% [markdown]
# And how much arithmetic is a step of training? A vector times a matrix is a multiplication and an
# addition for each parameter, and the way back twice that: 6 in all, for each token. Positions are
# only looked up. Attention adds the products of queries with keys and of weights with values:
# 12 L D T.

# %%
gpt2 = ModelConfig()
T, D, V = gpt2.context_length, gpt2.embed_dim, gpt2.vocab_size
by_pencil = 6 * (pencil(12, D, T, V) - T * D) + 12 * 12 * D * T
assert by_pencil == flops_per_token(gpt2)
print(f"{by_pencil:,} operations for each token that GPT-2's smallest is trained on")

# %% [markdown]
# ## At real size
#
# GPT-2's smallest shape, as PyTorch builds it after `torch.manual_seed(123)`, number by number and
# without PyTorch. First the book's shell of it, which has no blocks yet: tables, **dropout**
# (notebook 04), head.


# %%
def ends(logits):
    """The first three and the last three scores of each token."""
    return {"cols[0:3],[-3:]": jnp.concatenate([logits[..., :3], logits[..., -3:]], axis=-1)}


generator = TorchGenerator(123)
tables = [jnp.asarray(generator.embedding(rows, 768)) for rows in (50257, 1024)]
head = jnp.asarray(generator.linear(768, 50257, bias=False)["weight"])
x = jaxgpt.embed(batch, tokens_table=tables[0], positions_table=tables[1])
book("ch04.dummy.logits", ends(jnp.asarray(generator.dropout(x, 0.1)) @ head))
del tables, head

# %% [markdown]
# Now the whole. In training mode there is dropout in every block, and its masks are PyTorch's too;
# `intervene` puts them where they belong.

# %%
book_gpt2 = ModelConfig(dropout=0.1, qkv_bias=False, tie_head=False)
generator = TorchGenerator(123)
arrays, structure = jax.tree.flatten(jaxgpt.init_like_torch(book_gpt2, generator))
moved = [jnp.asarray(arrays.pop(0)) for _ in range(len(arrays))]  # one by one, to save memory
params = structure.unflatten(moved)
points = ["embed", "*.attn.weights", "*.attn.out", "*.mlp.out"]
dropped = dict.fromkeys(points, lambda x: jnp.asarray(generator.dropout(x, 0.1)))
logits = jaxgpt.intervene(GPT(book_gpt2, params), batch, dropped)
print(logits.shape, f"from {sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters")
book("ch04.gpt.logits_train_mode", ends(logits))

# %% [markdown]
# And it writes: take the most likely token, append it, ask again. It has learnt nothing, and so it
# says nothing; but it says the same as the book's.

# %%
forward = jax.jit(lambda params, ids: GPT(book_gpt2, params)(ids))
text = tokenizer.encode("Hello, I am")
for _ in range(10):
    padded = jnp.array([text + [0] * (14 - len(text))])  # what comes later is not seen anyway
    text.append(int(forward(params, padded)[0, len(text) - 1].argmax()))
print(tokenizer.decode(text))
book("ch04.generate.greedy", text)

# %% [markdown]
# ## Find the bug
#
# `suspect` takes the arguments of `block` and gives the stream, with one error. Below is the
# variance through 48 of each. Is a `"norm"` in the wrong place, a `"shortcut"` missing, the
# `"mask"` or the `"gelu"` missing, or are the first numbers, the `"start"`, others? (Exercise 05.3,
# 6 minutes, difficulty 2.) Try both with inputs and parameters of your own.

# %%
figure, axes = figures.new(7.5, 3.2)
for name, block, style, color in (
    ("block", jaxgpt.block, "-", figures.SECOND),
    ("suspect", suspect, "--", figures.LIT),
):
    axes.plot(depth, variances(x0, blocks, block), style, color=color, label=name)
axes.set(yscale="log", xlabel="block of 48", ylabel="variance of the stream (no unit)")
axes.yaxis.set_major_formatter(lambda size, _: f"{size:g}")
axes.legend(frameon=False, loc="center right")
figures.show(
    figure,
    "Variance of the stream after each of 48 blocks: the package's grows slowly from its small "
    "start, the suspect's is 1 after every block.",
)
answer = ...

# %%
check("05.3", answer)

# %% [markdown]
# ## In the library
#
# `jaxgpt/model/layers.py`, `feedforward.py` and `transformer.py` have the parts, `gpt.py` the
# whole. `tests/model/test_transformer.py` shows that a block adds and that the scan is a loop;
# `tests/parity/test_gpt_parity.py`, that PyTorch computes the same.
#
# ## What you know now
#
# - A block is norm, attention, add; norm, feed-forward, add. The stream is the sum of all of it.
# - Shortcuts keep gradients, norms keep sizes, and a smaller start keeps deep models calm.
# - 12 D² + 13 D parameters a block, two thirds of them feed-forward; what goes out is V logits.
#
# Next: 06, where the numbers stop being random.
