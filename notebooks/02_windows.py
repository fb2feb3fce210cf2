# %% [markdown]
# # 02 Windows
#
# **What you will build**: the data loader. It makes of one long row of ids the pieces that a model
# learns from, in an order that is random and can still be repeated. You need Python and arrays; no
# machine learning. 20 minutes.

# %%
from collections import Counter

import numpy as np

import jaxgpt
from course import book, check, figures
from course.exercises.windows import leaky_batches
from jaxgpt.data.batches import IGNORE, shuffled
from jaxgpt.data.stories import tell_story

text = "".join(tell_story(index, seed=0).text for index in range(60))
tokenizer = jaxgpt.train_bpe([text], 512)
ids = np.array(tokenizer.encode(text))
print(len(ids), "tokens:", ids[:12], "...")

# %% [markdown]
# ## The path

# %%
figures.path_strip(
    "tokens",
    ["60 stories", f"{len(ids):,} in a row", "notebook 03", "notebook 04"]
    + ["notebook 05"] * 2
    + ["notebook 07"] * 2,
)

# %% [markdown]
# ## One row, read twice: inputs and targets
#
# **The idea in a breath.** A GPT guesses the next token. The text itself has the answers: behind
# each token stands the one to be guessed. So take a piece of the text as **inputs**, and the same
# piece one place further on as **targets**.

# %%
T = 6  # the context length: how many tokens the model sees at once
inputs, targets = ids[:T], ids[1 : T + 1]
print("inputs ", inputs)
print("targets", targets)

# %% [markdown]
# One piece of T tokens is T exercises at once: each place predicts its target from all tokens up to
# it. That is why a mask was needed to hide the future (notebook 04).

# %%
for place in range(T):
    seen = tokenizer.decode(inputs[: place + 1].tolist())
    print(f"{seen!r:>24} -> {tokenizer.decode([int(targets[place])])!r}")

# %% [markdown]
# ## Data sampling with a sliding window
#
# **The idea in a breath.** Slide a window of T tokens along the row. How far it moves each time is
# the **stride**. With a stride of T windows touch; with less they overlap, and each token is seen
# several times, in several places.

# %%
windows = jaxgpt.SlidingWindows(ids, context_length=T, stride=T)
first = windows.window(np.arange(3))
print(len(windows), "windows; the first three:")
print(first.inputs)
print(first.targets)
assert (first.inputs[0] == inputs).all()
assert (first.targets[0] == targets).all()

# %%
figure, axes = figures.new(11, 3.6)
axes.axis("off")
axes.set(xlim=(-4.2, 24), ylim=(-1.0, 6.6))
for place in range(24):
    figures.box(axes, place, 5.6, 1, 0.9, str(place))
axes.text(-0.3, 6.0, "tokens", ha="right", va="center")
for row, stride in enumerate((6, 3, 1)):
    height = 4.2 - 2 * row
    axes.text(-0.3, height, f"stride {stride}", ha="right", va="center")
    for number in range(3):
        left, level = number * stride, height + 0.5 - 0.55 * number
        axes.plot([left + 0.1, left + 5.9], [level, level], lw=5, color=figures.SECOND)
        axes.plot([left + 1.1, left + 6.9], [level - 0.2] * 2, lw=2.5, color=figures.LIT)
axes.text(14, 4.2, "thick: inputs\nthin, one further: targets", va="center")
figures.show(
    figure,
    "A row of 24 tokens, and below it three windows for each of the strides 6, 3 and 1, drawn as "
    "thick lines for inputs and thin ones, shifted by one, for targets.",
)

# %% [markdown]
# **Predict** (exercise 02.1, 2 minutes, difficulty 1): how many windows of 8 tokens, with a stride
# of 8, are there in 41 tokens?

# %%
answer = ...

# %%
check("02.1", answer)

# %% [markdown]
# How often is each token a target, and how much context does it have then? With a stride of T,
# once, and the first of each window has a context of one token. With a stride of half, most
# are targets twice, and once with at least half a window before them.

# %%
row = np.arange(64)
figure, (often, context) = figures.new(11, 3.4, columns=2)
for stride, style, color in (
    (16, "-", figures.SECOND),
    (8, "--", figures.LIT),
    (4, ":", figures.INK),
):
    cut = jaxgpt.SlidingWindows(row, 16, stride)
    batch = cut.window(np.arange(len(cut)))
    counts = Counter(batch.targets.ravel().tolist())
    often.step(row, [counts[token] for token in row], style, where="mid", color=color)
    best = [
        max((place + 1 for place in np.nonzero(batch.targets == token)[1]), default=0)
        for token in row
    ]
    context.step(row, best, style, where="mid", color=color, label=f"stride {stride}")
often.set(xlabel="token of 64", ylabel="times it is a target", ylim=(0, 4.3), yticks=range(5))
context.set(xlabel="token of 64", ylabel="longest context (tokens)", ylim=(0, 17))
context.legend(frameon=False, loc="lower right")
figures.show(
    figure,
    "Two panels over the tokens of a text, for windows of 16 with strides 16, 8 and 4: with "
    "smaller strides each token is a target more often, and has a longer context at best.",
)

# %% [markdown]
# To measure a model, each token should be a target exactly once, and with much context. `in_order`
# does that: where windows overlap, targets that came before are marked `IGNORE` and not counted.

# %%
measured = list(jaxgpt.SlidingWindows(row[:21], 8, 4).in_order(batch_size=2))
print(measured[0].targets, "IGNORE is", IGNORE)
counted = np.concatenate([batch.targets[batch.targets != IGNORE] for batch in measured])
assert sorted(counted) == list(range(1, 21))  # each once, but for the first, which none foretells

# %% [markdown]
# Yours to build (exercise 02.2, 8 minutes, difficulty 2): `cut(ids, length, stride)`, all windows
# as two arrays, inputs and targets, each (windows, length). Try it without a loop: one array of
# places, used as an index.

# %%
answer = ...  # def cut(ids, length, stride): ...  and then: answer = cut

# %%
check("02.2", answer)

# %% [markdown]
# ## An efficient loader
#
# **The idea in a breath.** Neighbouring windows are alike, and a model that meets them in order
# forgets the beginning. So shuffle. But a run that is stopped must go on with the same order, on
# any machine. So the order is no list that is kept, but a **function** of seed and row: it answers
# "which window is row one million?" at once.

# %%
print("seed 0:", shuffled(len(windows), 0, 8, seed=0))
print("seed 0:", shuffled(len(windows), 0, 8, seed=0), "again")
print("seed 1:", shuffled(len(windows), 0, 8, seed=1))
print("rows 4 to 7 of seed 0:", shuffled(len(windows), 4, 4, seed=0))

# %% [markdown]
# Once all windows have come, an **epoch** is over, and the next has an order of its own. In each,
# every window comes exactly once.

# %%
size = 100
for epoch in range(2):
    order = shuffled(size, epoch * size, size, seed=0)
    assert sorted(order) == list(range(size))
figure, axes = figures.new(10, 3.6)
both = shuffled(size, 0, 2 * size, seed=0)
axes.scatter(np.arange(size), both[:size], s=14, color=figures.SECOND, label="first epoch")
axes.scatter(
    np.arange(size, 2 * size), both[size:], s=14, marker="s", color=figures.LIT, label="second"
)
axes.axvline(size - 0.5, color=figures.INK, lw=0.8)
axes.set(xlabel="row of training", ylabel="window of the text", xlim=(0, 2 * size))
axes.legend(frameon=False, ncols=2, loc="upper right", bbox_to_anchor=(1, 1.14))
figures.show(
    figure,
    "Which of 100 windows is drawn at each of 200 rows: two clouds of points without a pattern, "
    "one for each epoch, each with one point in every row and column.",
)

# %% [markdown]
# Several windows are computed at once: a **batch** of B rows. Step n of a run takes the rows from
# n times B on. That is all a run has to remember to go on: how many rows it had.

# %%
batch = windows.batch(first=0, batch_size=4, seed=0)
print(batch.inputs.shape, "B windows of T tokens, and as many targets", batch.targets.shape)
halves = [windows.batch(first=row, batch_size=2, seed=0).inputs for row in (0, 2)]
assert (batch.inputs == np.concatenate(halves)).all()  # the order does not depend on the batch

# %% [markdown]
# The book's loader is the same, on 1001 numbers from 0 on: a stride of 1, a stride of 4 by
# twos, and PyTorch's own shuffled order, which is made here without PyTorch.

# %%
numbers = np.arange(1001)
ones, fours = jaxgpt.SlidingWindows(numbers, 4, 1), jaxgpt.SlidingWindows(numbers, 4, 4)
last = ones.window(np.array([len(ones) - 1]))
book("ch02.bonus.loader.last", [last.inputs[0], last.targets[0]])
book("ch02.bonus.loader.bs2.last", fours.window(np.arange(len(fours))[-2:]).inputs)
order = jaxgpt.TorchGenerator(123).loader_order(len(fours))
book("ch02.bonus.loader.shuffle.last", fours.window(order[: len(order) // 2 * 2][-2:]).inputs)

# %% [markdown]
# ## Find the bug
#
# With `leaky_batches` a model's loss falls to 0 within a few steps. No text is that easy: something
# gives the answers away. Is it the `"order"`, the `"length"` of the windows, the `"stride"`, or the
# `"targets"`? (Exercise 02.3, 4 minutes, difficulty 1.)

# %%
for inputs, targets in leaky_batches(ids, T, batch_size=2, steps=2):
    print(inputs[0], "->", targets[0])
answer = ...

# %%
check("02.3", answer)

# %% [markdown]
# ## In the library
#
# Windows and their order are in `jaxgpt/data/batches.py`; a text that does not fit into memory lies
# on disk (`jaxgpt/data/tokens.py`) and is read a window at a time. `tests/data/test_batches.py`
# shows that every target is counted once and that the order never changes.
#
# ## What you know now
#
# - Targets are the inputs one place further on; a window of T tokens is T predictions.
# - The stride says how far windows move; for measuring, each token counts once.
# - The order is a function of seed and row, so that a run can go on where it stopped.
#
# Next: 03, where ids become vectors.
