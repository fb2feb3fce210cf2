# %% [markdown]
# # 04 Attention
#
# **What you will build**: self-attention, the one part of a GPT in which words look at each other.
# Four variants, each built on the last: simplified, self, causal, multi-head. You need Python and
# arrays; no machine learning. 30 minutes.

# %%
import math

import jax
import jax.numpy as jnp
import numpy as np

import jaxgpt
from course import book, check, figures, same
from course.exercises.attention import suspect
from jaxgpt import TorchGenerator, attention_weights, causal_mask, linear

np.set_printoptions(precision=4, suppress=True)
WORDS = ["Your", "journey", "starts", "with", "one", "step"]
x = jnp.array(
    [
        [0.43, 0.15, 0.89],
        [0.55, 0.87, 0.66],
        [0.57, 0.85, 0.64],
        [0.22, 0.58, 0.33],
        [0.77, 0.25, 0.10],
        [0.05, 0.80, 0.55],
    ]
)
book("ch03.inputs", [[float(str(number)) for number in row] for row in np.asarray(x)])

# %% [markdown]
# ## The path
#
# A text becomes **tokens** (numbers that stand for words), tokens become **vectors** (rows of
# numbers that can be computed with), and then come layers of attention. Here the text has T = 6
# words, and each is a vector of width D = 3. Real models have hundreds or thousands of numbers in a
# vector; three fit on a page, and nothing else changes.

# %%
figures.path_strip(
    "attention",
    ["Your journey...", f"{len(WORDS)} words", f"{x.shape} numbers", "who looks at whom"]
    + ["notebook 05"] * 2
    + ["notebook 07"] * 2,
)

# %% [markdown]
# ## Simplified self-attention (variant 1)
#
# **The idea in a breath.** The meaning of a word depends on the words around it. So let each word
# become a mean of all words, in which those that resemble it count for more.
#
# How much do two vectors resemble each other? Multiply them number by number and add up: the
# **dot product**. It is large where both point the same way. Take the second word, "journey": it
# is the **query**, the word that looks. Its dot product with each word is a **score**.

# %%
query = x[1]
scores = jnp.array([sum(a * b for a, b in zip(query, word, strict=True)) for word in x])
for word, score in zip(WORDS, scores, strict=True):
    print(f"{word:>8} {score:.4f}")
same(scores, x @ query)
book("ch03.scores2", scores)

# %% [markdown]
# For a mean we need shares that sum to 1. Dividing by the sum would do here.

# %%
shares = scores / scores.sum()
print(shares, "sum", shares.sum())
book("ch03.norm2", shares)

# %% [markdown]
# But a score can be negative, and a share cannot. **Softmax** makes shares of any scores: raise e
# to each, then divide by the sum. The largest score is taken away first. That changes no share,
# and keeps e to the power of a large score from overflowing. The shares are the **attention
# weights**.


# %%
def softmax(scores):
    powers = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


weights = softmax(scores)
same(weights, jax.nn.softmax(scores))
print(softmax(jnp.array([1000.0, 999.0])), "and not", jnp.exp(jnp.array([1000.0, 999.0])))

# %% [markdown]
# The mean of all six words by these weights is the **context vector** of "journey".

# %%
context = sum(weight * word for weight, word in zip(weights, x, strict=True))
print(context)
book("ch03.context2", context)

# %%
figure, axes = figures.new(6.5, 4.6)
labels = dict.fromkeys(WORDS, (9, 5)) | {"starts": (11, -13), "with": (-40, 7), "Your": (-10, 9)}
for word, vector, weight in zip(WORDS, x, weights, strict=True):
    lit = word == "journey"
    figures.arrow(axes, (0, 0), (float(vector[0]), float(vector[1])))
    axes.plot(*vector[:2], "o", ms=60 * weight, color=figures.LIT if lit else figures.SECOND)
    axes.annotate(
        f"{word} {weight:.2f}", vector[:2], labels.get(word, (9, 5)), textcoords="offset points"
    )
axes.plot(*context[:2], "s", color=figures.INK, ms=9)
axes.annotate("context of journey", context[:2], (9, -6), textcoords="offset points")
axes.set(xlim=(0, 1), ylim=(0, 1.05), xlabel="first number (no unit)", ylabel="second number")
figures.show(
    figure,
    "Six words as arrows, by the first two of their three numbers. A larger dot has more weight "
    "for the query journey, the red one; the square, its context vector, lies amid them.",
)

# %% [markdown]
# All queries at once are one matrix product: row i of `x @ x.T` has the scores of word i. That is
# the whole first variant, in one line.


# %%
def simplified(x):
    return softmax(x @ x.T) @ x


same(simplified(x), jaxgpt.simplified_attention(x))
book("ch03.weights", softmax(x @ x.T))
book("ch03.contexts", simplified(x))

# %% [markdown]
# ## Self-attention with trainable weights (variant 2)
#
# **The idea in a breath.** What a word looks for, what it offers, and what it hands over are three
# things. So make three vectors of each, by three matrices that training can change.
#
# - **query**: what this word looks for
# - **key**: what others find it by
# - **value**: what it hands over where it is found
#
# A score is now a query times a key, and the mean is over values. The matrices begin as random
# numbers. These are the ones that PyTorch draws from seed 123, made here without PyTorch.

# %%
generator = TorchGenerator(123)
W = {name: jnp.asarray(generator.rand(3, 2)) for name in ("query", "key", "value")}
queries, keys, values = x @ W["query"], x @ W["key"], x @ W["value"]
K = queries.shape[-1]
print("queries", queries.shape, "keys", keys.shape, "values", values.shape)
weights2 = softmax(queries[1] @ keys.T / math.sqrt(K))
book("ch03.trainable.weights2", weights2)
book("ch03.trainable.context2", weights2 @ values)
print("context of journey", weights2 @ values)

# %% [markdown]
# Why divide by the root of K, the width of a key? A sum of K random products is about as large as
# the root of K. Large scores make softmax **saturate**: one weight near 1, the others near 0. A
# small change of the scores then changes almost nothing, and training goes by small changes. Let
# us measure how evenly
# the weights are spread, by their **entropy** in bits: it is log2 of 64 where 64 keys share alike,
# and 0 where one has all.


# %%
def entropy(weights):
    return -(weights * jnp.log2(jnp.maximum(weights, 1e-30))).sum(-1).mean()


widths = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
spread = {"divided by the root of K": [], "as they are": []}
for width in widths:
    q, k = jax.random.normal(jax.random.key(width), (2, 64, width))
    spread["divided by the root of K"].append(entropy(softmax(q @ k.T / math.sqrt(width))))
    spread["as they are"].append(entropy(softmax(q @ k.T)))
for name, line in spread.items():
    print(f"{name:>24}: " + " ".join(f"{bits:.2f}" for bits in line))

# %%
figure, axes = figures.new(6.5, 3.4)
axes.axhline(6, color=figures.INK, ls=":", label="all alike: log2 of 64")
for (name, line), style in zip(spread.items(), ("o-", "s--"), strict=True):
    color = figures.SECOND if style == "o-" else figures.LIT
    axes.plot(widths, line, style, color=color, label=f"scores {name}")
axes.set_xscale("log", base=2)
axes.set_xticks(widths, map(str, widths))
axes.set(xlabel="K, numbers in a key", ylabel="entropy of the weights (bits)", ylim=(0, 6.4))
axes.legend(frameon=False)
figures.show(
    figure,
    "Entropy of 64 attention weights against the width of a key: divided by its root the scores "
    "keep it above 5 bits at every width, undivided it falls towards 0.",
)

# %% [markdown]
# With the scale, a wide key shares as a narrow one does. Now as a function, beside the package's.


# %%
def self_attention(x, query, key, value):
    queries, keys, values = x @ query, x @ key, x @ value
    return softmax(queries @ keys.T / math.sqrt(keys.shape[-1])) @ values


same(
    self_attention(x, **W),
    jaxgpt.self_attention(x, **{name: {"weight": w} for name, w in W.items()}),
)
book("ch03.sa_v1", self_attention(x, **W))

# %% [markdown]
# PyTorch's `nn.Linear` draws its matrices otherwise, and so the book has a second version, from
# seed 789. With the first version's generator, from seed 123, it answers the book's exercise 3.1.


# %%
def from_linear(generator):
    names = ("query", "key", "value")
    return {name: jnp.asarray(generator.linear(3, 2, bias=False)["weight"]) for name in names}


W2 = from_linear(TorchGenerator(789))
weights = softmax((x @ W2["query"]) @ (x @ W2["key"]).T / math.sqrt(2))
book("ch03.sa_v2", self_attention(x, **W2))
book("ch03.sa_v2.weights", weights)
book("ch03.ex31", self_attention(x, **from_linear(TorchGenerator(123))))

# %% [markdown]
# ## Causal attention (variant 3)
#
# **The idea in a breath.** A GPT is to guess the next word. If a word could look at those after
# it, it would not have to guess. So hide them.
#
# **Predict**, before you run the next cells (exercise 04.1, 1 minute, difficulty 1): after hiding
# all later words, what is the attention weight of the first word on itself?

# %%
answer = ...

# %%
check("04.1", answer)

# %% [markdown]
# What hides is the **causal mask**: row i, the query, may look at column j, the key, where j is
# not after i. There are three ways to apply it, and all give the same.

# %%
scores = (x @ W2["query"]) @ (x @ W2["key"]).T / math.sqrt(2)
mask = jnp.tril(jnp.ones((6, 6), bool))
same(mask, causal_mask(6))
kept = jnp.where(mask, softmax(scores), 0)
renormalised = kept / kept.sum(-1, keepdims=True)  # softmax, then hide, then share anew
infinite = softmax(jnp.where(mask, scores, -jnp.inf))  # hide, then softmax: e to -inf is 0
least = attention_weights(x @ W2["query"], x @ W2["key"], scale=1 / math.sqrt(2), mask=mask)
same(renormalised, infinite)
same(infinite, least)  # the package's: the least float in place of -inf, so that nothing is NaN
book("ch03.causal.weights", least)
book("ch03.causal.scores_lower", [row[: i + 1] * math.sqrt(2) for i, row in enumerate(scores)])

# %% [markdown]
# In training, some weights are set to 0 at random and the others made larger to make up for it:
# **dropout**. The model cannot then lean on one word alone. Half are dropped here, with PyTorch's
# own random mask. In a GPT it is a tenth, and when it writes, none.

# %%
dropped = TorchGenerator(123).dropout(least, 0.5)
book("ch03.dropout.ones", TorchGenerator(123).dropout(np.ones((6, 6), np.float32), 0.5))
book("ch03.dropout.applied", dropped)

# %%
figure, panels = figures.new(11, 8.0, columns=2, rows=2)
upper = ~mask
figures.matrix(panels[0, 0], weights, "softmax: all words", WORDS, WORDS)
figures.matrix(panels[0, 1], least, "masked: the past and itself", WORDS, WORDS, hidden=upper)
figures.matrix(panels[1, 0], dropped, "dropped by half, doubled", WORDS, WORDS, hidden=upper)
figures.matrix(panels[1, 1], scores, "scores, scaled", WORDS, WORDS)
for axes in panels.flat:
    axes.set(xlabel="key: is looked at", ylabel="query: looks")
figures.show(
    figure,
    "Four six by six matrices of query by key: weights after softmax, nearly alike; masked, a "
    "lower triangle whose first row is one 1; dropped, half of that gone and the rest doubled; "
    "and the scaled scores that they come from.",
)

# %% [markdown]
# The function is yours to build (exercise 04.2, 10 minutes, difficulty 2). Take `linear` and
# `jax.nn.softmax`; `query`, `key` and `value` are matrices (D, K). The check tries it on random
# words, on equal words, on one word, and where scores are 0.

# %%
answer = ...  # def causal(x, query, key, value): ...  and then: answer = causal

# %%
check("04.2", answer)

# %%
W3 = {name: {"weight": weight} for name, weight in from_linear(TorchGenerator(123)).items()}
batch = jnp.stack([x, x])  # two texts at once: B = 2
contexts = jaxgpt.causal_attention(batch, **W3)
print(contexts.shape, "both texts alike:", bool((contexts[0] == contexts[1]).all()))
book("ch03.causal_attention", contexts[0])

# %% [markdown]
# ## Multi-head attention (variant 4)
#
# **The idea in a breath.** One set of weights can ask one question: which word is the subject?
# Several side by side ask several. Each is a **head**, with matrices of its own; their results are
# put next to each other.

# %%
generator = TorchGenerator(123)
heads = [
    {name: {"weight": weight} for name, weight in from_linear(generator).items()} for _ in range(2)
]
side_by_side = jnp.concatenate([jaxgpt.causal_attention(x, **head) for head in heads], axis=-1)
same(side_by_side, jaxgpt.multi_head_attention_by_heads(x, heads=heads))
book("ch03.mha_wrapper", side_by_side)

# %% [markdown]
# A loop over heads is slow. But matrices side by side are one wider matrix, so that one product
# gives the queries, keys and values of all heads, which are then cut apart: heads are slices. At
# the end, one more matrix, `out`, mixes what the heads found. This is what a GPT runs.

# %%
generator = TorchGenerator(123)
qkv = {"weight": jnp.asarray(generator.linear(3, 6, bias=False)["weight"])}
out = {name: jnp.asarray(array) for name, array in generator.linear(2, 2).items()}
projected = linear(x, **qkv)  # (T, 6): queries of 2 heads, keys of 2, values of 2, each K = 1
found = []
for head in range(2):
    query, key, value = (projected[:, [part * 2 + head]] for part in range(3))
    head_weights = attention_weights(query, key, mask=causal_mask(6))
    found.append(head_weights @ value)
by_hand = linear(jnp.concatenate(found, axis=-1), **out)
at_once = jaxgpt.multi_head_attention(x, qkv=qkv, out=out, num_heads=2)
same(by_hand, at_once)
book("ch03.mha", at_once)

# %% [markdown]
# ## The four variants, side by side

# %%
steps = ["words", "queries,\nkeys, values", "scores", "scale", "mask", "softmax", "mean", "out"]
added = [{"words", "scores", "softmax", "mean"}, {"queries,\nkeys, values", "scale"}]
added += [{"mask"}, {"out"}]
names = ["1 simplified", "2 self", "3 causal", "4 multi-head"]
figure, axes = figures.new(11, 4.6)
axes.set(xlim=(-1.4, len(steps)), ylim=(0, 4))
axes.axis("off")
for row, name in enumerate(names):
    present = set().union(*added[: row + 1])
    shown = [step for step in steps if step in present]
    axes.text(-0.1, 3.45 - row, name, ha="right", va="center", weight="bold")
    for step in shown:
        copies = 2 if row == 3 and step not in {"words", "out"} else 1
        for copy in range(copies):  # a box for each head
            height, bottom = 0.76 / copies, 3.07 - row + copy * 0.38
            lit = step in added[row]
            figures.box(axes, steps.index(step), bottom, 0.9, height, step, lit=lit)
figures.show(
    figure,
    "Four rows of boxes, one for each variant, with what it adds lit: words, scores, softmax and "
    "mean; queries, keys, values and a scale; a mask; and two heads side by side with an output.",
)

# %% [markdown]
# ## At real size
#
# GPT-2's smallest model has D = 768, and 12 heads. One layer of attention then has this many
# parameters, the answer to the book's exercise 3.3, and its result has the shape of what went in:
# that is why such layers can be stacked. The package splits queries into chunks, so that the
# hidden half of the matrix is mostly never computed; the numbers are the same.


# %%
def fused(generator, inputs, outputs):
    """Weights as PyTorch draws them: queries, keys and values side by side, and the output."""
    qkv = generator.linear(inputs, 3 * outputs, bias=False)
    return jax.tree.map(jnp.asarray, {"qkv": qkv, "out": generator.linear(outputs, outputs)})


def cut(qkv, num_heads):
    """Query, key and value of each head, of the three side by side."""
    thirds = [jnp.split(third, num_heads, axis=1) for third in jnp.split(qkv, 3, axis=1)]
    names = ("query", "key", "value")
    return [
        {name: {"weight": weight} for name, weight in zip(names, head, strict=True)}
        for head in zip(*thirds, strict=True)
    ]


gpt2 = fused(TorchGenerator(0), 768, 768)
parameters = sum(leaf.size for leaf in jax.tree.leaves(gpt2))
print(f"{parameters:,} parameters")
book("ch03.ex33.params", parameters)

# %%
equal = []
for inputs, outputs in [(768, 768), (768, 1536), (1024, 512)]:
    generator = TorchGenerator(123)
    params, text = fused(generator, inputs, outputs), jnp.asarray(generator.randn(2, 8, inputs))
    loop = jaxgpt.multi_head_attention_by_heads(
        text, heads=cut(params["qkv"]["weight"], 4), out=params["out"]
    )
    at_once = jaxgpt.multi_head_attention(text, **params, num_heads=4)
    equal.append(bool(jnp.abs(loop - at_once).max() < 1e-5))
text = jax.ShapeDtypeStruct((8, 1024, 768), jnp.float32)
shape = jax.eval_shape(
    lambda text: jaxgpt.multi_head_attention(text, **gpt2, num_heads=12), text
).shape
print("heads one by one and at once agree:", equal, "shape", shape)
book("ch03.bonus.mha_equiv", {"equal": equal, "shape": list(shape)})

# %% [markdown]
# ## Find the bug
#
# `suspect(x)` is a variant 2 with the matrices of seed 789 and one error. Its shapes are right, and
# its result is not the book's. Which error is it: no `"scale"`, softmax over the wrong `"axis"`,
# wrong `"values"`, a `"mask"` where there is none, or queries and keys `"exchanged"`? (Exercise
# 04.3, 8 minutes, difficulty 2.) The lesson's own numbers are in `W2`.

# %%
weights, result = suspect(x)
print(weights)
answer = ...

# %%
check("04.3", answer)

# %% [markdown]
# ## In the library
#
# All four variants are in `jaxgpt/model/attention.py`, in this order, each built on the one before.
# `tests/model/test_attention.py` shows that they agree, and `tests/parity/test_function_parity.py`
# that PyTorch computes the same.
#
# ## What you know now
#
# - A context vector is a mean of values, by weights that softmax makes of queries times keys.
# - The scale keeps softmax from saturating; the mask hides the future, before softmax.
# - Heads are slices of one product, and an attention's result has the shape of what went in.
#
# Next: 05, where attention becomes a block, and blocks a GPT.
