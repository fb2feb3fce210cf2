# %% [markdown]
# # 03 Vectors
#
# **What you will build**: the first layer of a GPT, which turns ids into vectors that know what
# stands there and where. You need Python and arrays; no machine learning. 25 minutes.

# %%
import jax
import jax.numpy as jnp
import numpy as np

import jaxgpt
from course import book, check, figures, same
from course.exercises.vectors import suspect
from jaxgpt import TorchGenerator, embed, simplified_attention, sinusoidal_positions

np.set_printoptions(precision=4, suppress=True)
words = jaxgpt.WordTokenizer.train("The cat sat on the mat.")
ids = jnp.array(words.encode("the cat sat on the mat."))
print(ids, "of", len(words.words), "words")

# %% [markdown]
# ## The path

# %%
figures.path_strip(
    "vectors",
    ["the cat sat...", str(ids.tolist()[:4])[:-1] + ", ...", "a row for each", "notebook 04"]
    + ["notebook 05"] * 2
    + ["notebook 07"] * 2,
)

# %% [markdown]
# ## Embedding: tokens to vectors
#
# **The idea in a breath.** An id is a name, and one cannot compute with names. So give each id a
# row of numbers, a **vector**, and let training find numbers that are of use. All rows together are
# the **embedding table**, (V, D): V ids, D numbers each.
#
# It begins at random. Here is the table that PyTorch draws from seed 123 for six ids and width 3;
# the vectors of some tokens are the rows of their ids, nothing else.

# %%
table = jnp.asarray(TorchGenerator(123).embedding(6, 3))
print(table)
book("ch02.embedding63.seed123", table)
print("ids 2, 3, 5 and 1:")
print(table[jnp.array([2, 3, 5, 1])])

# %% [markdown]
# A lookup is a matrix product in disguise. Write an id as a **one-hot** row: 1 in its place, 0
# elsewhere. That row times the table picks one row out, to the last bit. But it multiplies V by D
# numbers to get D of them, and so nobody computes it this way.

# %%
table = jnp.asarray(TorchGenerator(123).embedding(4, 5))
tokens = jnp.array([2, 3, 1])
one_hot = jax.nn.one_hot(tokens, 4)
picked = one_hot @ table
assert (picked == table[tokens]).all()
book("ch02.bonus.emb45.seed123", table)
book("ch02.bonus.emb_equals_onehot_matmul", bool((picked == table[tokens]).all()))
book("ch02.bonus.linear45.seed123", TorchGenerator(123).linear(4, 5, bias=False)["weight"].T)

# %%
figure, panels = figures.new(11, 3.0, columns=3, width_ratios=[4, 5, 5])
shifted = table - table.min()
ids_shown = [f"id {token}" for token in tokens.tolist()]
figures.matrix(panels[0], one_hot, "one-hot rows", ids_shown, [str(i) for i in range(4)], digits=0)
figures.matrix(panels[1], shifted, "times the table", [str(i) for i in range(4)], digits=1)
figures.matrix(panels[2], shifted[tokens], "are the rows of the ids", ids_shown, digits=1)
figures.show(
    figure,
    "A matrix of three one-hot rows, the table of four rows of five numbers (raised, so that none "
    "is negative), and their product: the rows with the ids 2, 3 and 1 of the table.",
)

# %% [markdown]
# Training changes only the rows that were used. A small step against the gradient of any loss
# leaves the other rows as they are: here the **gradient** (how the loss grows with each number) of
# a sum of squares.

# %%
gradient = jax.grad(lambda table: (table[tokens] ** 2).sum())(table)
print(gradient)
print("rows with a gradient:", np.flatnonzero(np.abs(gradient).sum(1)).tolist())

# %% [markdown]
# ## Positional encoding
#
# **The idea in a breath.** Attention (notebook 04) is a mean over words, and a mean has no order:
# "the cat sat on the mat" and "the mat sat on the cat" would be the same. So add to each vector
# another, which says where it stands.
#
# First the proof. Exchange two words: what attention computes for each word is the same number by
# number; only the rows are exchanged.

# %%
table = jnp.asarray(TorchGenerator(123).embedding(words.vocab_size, 8))
order = jnp.array([0, 5, 2, 3, 4, 1, 6])  # cat and mat change places
plain = simplified_attention(table[ids])
exchanged = simplified_attention(table[ids[order]])
same(exchanged, plain[order])

# %% [markdown]
# With positions that is over. GPT-2 has a second table, (T, D), a row for each place, and learns it
# like the first. The older way needs no learning: waves of many lengths, **sinusoidal positions**.
# Column pair i has a sine and a cosine of the place, over a wavelength that grows with i.

# %%
positions = sinusoidal_positions(64, 64)
angles = np.arange(64)[:, None] * 10_000.0 ** (-np.arange(0, 64, 2) / 64)
same(positions[:, ::2], np.sin(angles))
same(positions[:, 1::2], np.cos(angles))

# %%
figure, (heat, waves) = figures.new(11, 3.8, columns=2)
heat.imshow(positions, cmap="Greys", aspect="auto")
heat.set(xlabel="column of 64", ylabel="position", title="sines and cosines by turns")
for column, style, color in (
    (0, "-", figures.SECOND),
    (8, "--", figures.LIT),
    (20, ":", figures.INK),
):
    waves.plot(positions[:, column], style, color=color, label=f"column {column}")
waves.set(
    xlabel="position", ylabel="number in the column", title="three of the columns", ylim=(-1.1, 1.6)
)
waves.legend(frameon=False, ncols=3, loc="upper center")
figures.show(
    figure,
    "A grey picture of 64 positions by 64 columns, with fast waves in the first columns and slow "
    "ones in the last; and three columns as curves, each slower than the one before.",
)

# %% [markdown]
# Why waves? A shift by k places turns each pair of columns by the same angle wherever one begins,
# so "three places back" is one and the same turn for a layer to learn. And near places have vectors
# that resemble each other.

# %%
for k in (1, 7, 50):
    turn = k * 10_000.0 ** (-np.arange(0, 16, 2) / 16)
    far, near = sinusoidal_positions(60, 16)[k:], sinusoidal_positions(60, 16)[: 60 - k]
    sines, cosines = near[:, ::2], near[:, 1::2]
    turned = sines * np.cos(turn) + cosines * np.sin(turn)
    same(turned, far[:, ::2], atol=1e-5)

# %%
learned = jnp.asarray(TorchGenerator(123).embedding(64, 64)) / 8
figure, axes = figures.new(7.5, 3.4)
for name, rows, style, color in (
    ("sinusoidal", positions, "-", figures.SECOND),
    ("learned, before it learns", learned, "--", figures.LIT),
):
    alike = rows @ rows[30] / jnp.linalg.norm(rows, axis=1) / jnp.linalg.norm(rows[30])
    axes.plot(alike, style, color=color, label=name)
axes.set(xlabel="position", ylabel="cosine of the angle\nto position 30", ylim=(-0.6, 1.25))
axes.legend(frameon=False, ncols=2)
figures.show(
    figure,
    "How much each position's vector resembles that of position 30: sinusoidal ones the more "
    "the nearer, with a peak at 30; those of a table before training not at all but for 30 itself.",
)

# %% [markdown]
# Yours to build (exercise 03.2, 8 minutes, difficulty 2): `positions(length, width)` in few lines.
# The check knows what goes wrong: halves in place of turns, places from 1, the exponent, and
# rounding at far places.

# %%
answer = ...  # def positions(length, width): ...  and then: answer = positions

# %%
check("03.2", answer)

# %% [markdown]
# ## Feeding to the transformer
#
# The first layer adds the two: what stands there, and where. **Predict** (exercise 03.1, 1 minute,
# difficulty 1): eight texts of four tokens have token vectors (8, 4, 16); positions are (4, 16).
# Which shape has the sum?

# %%
answer = ...

# %%
check("03.1", answer)

# %%
batch = jnp.array([[6, 2, 5, 4], [6, 3, 5, 4]])
total = embed(batch, tokens_table=table, positions_table=sinusoidal_positions(16, 8))
same(total, table[batch] + sinusoidal_positions(16, 8)[:4])
print(batch.shape, "ids ->", total.shape, "numbers: B texts of T tokens of width D")

# %% [markdown]
# From here on, a model has one row of D numbers for each token, and every layer reads it and adds
# something: the **residual stream**. A place beyond the table is an error, in the package and in a
# model that is trained with it. In bare JAX it is not: an index that is too large takes the last
# row, and says nothing.

# %%
print(jnp.arange(5)[jnp.array([3, 4, 5, 99])])
try:
    embed(jnp.arange(7)[None], tokens_table=table, positions_table=sinusoidal_positions(4, 8))
except jaxgpt.errors.ConfigError as error:
    print("refused:", error)

# %% [markdown]
# ## Find the bug
#
# `suspect` adds the two, with one error. No shape tells, and at the last place it is hidden by what
# you have just seen. Are the `"places"` wrong, is there a `"scale"`, are the `"tables"` exchanged,
# or is it a `"product"`? (Exercise 03.3, 6 minutes, difficulty 2.) Try it on tables of your own.

# %%
zeros, ones = jnp.zeros((4, 8)), jnp.ones((4, 8))
counted = jnp.arange(4.0)[:, None] * ones  # the row of place i is i, i, ...
print(suspect(batch, table * 0, counted)[0, :, 0])
answer = ...

# %%
check("03.3", answer)

# %% [markdown]
# ## In the library
#
# Both tables are read in `jaxgpt/model/embedding.py`. `tests/model/test_embedding.py` holds the sum
# and the waves against their formulas, and `tests/parity/test_function_parity.py` against PyTorch.
#
# ## What you know now
#
# - An embedding is a row of a table; training changes the rows that are used.
# - Without positions, attention does not see order; with them, each vector says where it stands.
# - What enters the first block is (B, T, D), the beginning of the residual stream.
#
# Next: 04, where the words begin to look at each other.
