# %% [markdown]
# # 11 Equal to PyTorch
#
# **What you will build**: a comparison of two programs. It says whether both compute the same
# model; if not, where they part, and why. PyTorch is not needed: what it computed lies beside the
# notebook. You need Python and arrays; no machine learning. 30 minutes.

# %%
import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxgpt
from course import book, check, figures, recorded, same
from course.exercises.parity import SEALED
from course.recorded import CONFIG, TRAINING
from course.sealed import KINDS, sealed
from jaxgpt import TorchGenerator, compare, init_like_torch
from jaxgpt.generation.sampling import filter_logits
from jaxgpt.parity.diagnosis.differences import differences, rounding, roundings
from jaxgpt.parity.overrides import Norm, Variant, unbiased_norm
from jaxgpt.parity.recordings.recording import record_model, record_variant

np.set_printoptions(precision=4, suppress=True)
tokens = recorded.tokens()
T = tokens.shape[1]
print(recorded.SENTENCE, "is", T, "bytes:", tokens[0, :8], "...")

# %% [markdown]
# ## The path
#
# Two programs read the same sentence. All that stands on the path is to be the same in both, stage
# by stage. Where it is not, the first stage that differs has the error.

# %%
figures.path_strip(
    "logits",
    [recorded.SENTENCE[:12] + "...", f"{T} bytes", f"({T}, {CONFIG.embed_dim})"]
    + [f"{CONFIG.num_heads} heads", f"{CONFIG.num_layers} blocks"]
    + [f"({T}, {CONFIG.vocab_size})"]
    + ["notebook 07"] * 2,
)

# %% [markdown]
# ## The same random start
#
# **The idea in a breath.** A model begins with random numbers. Two programs that begin with others
# cannot be compared at all. But a computer's random numbers are computed: the same rule from the
# same start gives the same ones, in any program.
#
# The rule is a **generator**, and the number that it starts from is the **seed**. PyTorch's
# generator on a processor is made again here, number for number.

# %%
print(TorchGenerator(123).rand(4), "seed 123")
print(TorchGenerator(123).rand(4), "again")
print(TorchGenerator(124).rand(4), "seed 124")
book("ch02.embedding63.seed123", TorchGenerator(123).embedding(6, 3))
book("ch02.bonus.linear45.seed123", TorchGenerator(123).linear(4, 5, bias=False)["weight"].T)

# %% [markdown]
# `rand` is **uniform**: each number from 0 to 1 is as likely as any other. The tables of a model
# are **normal**: most numbers near 0, few far away. Box and Muller's rule makes two normal numbers
# of two uniform ones. The first becomes a distance from the middle, the second a direction; the
# point's two coordinates are the pair. PyTorch takes them in blocks of 16, number j with j + 8.

# %%
uniform = TorchGenerator(123).rand(16)
distance = np.sqrt(-2 * np.log(1 - uniform[:8]))
angle = 2 * np.pi * uniform[8:]
by_hand = np.concatenate([distance * np.cos(angle), distance * np.sin(angle)])
print(by_hand[:8])
same(by_hand, TorchGenerator(123).randn(16))

# %%
pairs = TorchGenerator(1).rand(1200, 2)
far = np.sqrt(-2 * np.log(1 - pairs[:, 0]))
turn = 2 * np.pi * pairs[:, 1]
figure, (before, after) = figures.new(9, 4.2, columns=2)
for lit, color, marker in ((False, figures.QUIET, "."), (True, figures.LIT, "^")):
    kept = (pairs[:, 0] > 0.9) == lit
    before.plot(*pairs[kept].T, marker, ms=4, color=color)
    after.plot(
        far[kept] * np.cos(turn[kept]), far[kept] * np.sin(turn[kept]), marker, ms=4, color=color
    )
before.set(xlabel="first uniform number", ylabel="second uniform number", aspect="equal")
after.set(xlabel="first normal number", ylabel="second normal number", aspect="equal")
after.set(xlim=(-4.5, 4.5), ylim=(-4.5, 4.5))
figures.show(
    figure,
    "Left, pairs of uniform numbers fill a square evenly. Right, the same pairs after Box and "
    "Muller's rule: a round cloud, dense in the middle. The tenth with the largest first number, "
    "drawn as triangles, is the outer ring.",
)

# %% [markdown]
# What a model draws depends on the order. PyTorch draws as it builds: the table of tokens, that of
# positions, then each block's matrices, and the head. `init_like_torch` draws in that order.

# %%
params = init_like_torch(CONFIG, 123)
generator = TorchGenerator(123)
same(generator.randn(CONFIG.vocab_size, CONFIG.embed_dim), params["embed"]["tokens"])
same(generator.randn(CONFIG.context_length, CONFIG.embed_dim), params["embed"]["positions"])
first = generator.linear(CONFIG.embed_dim, 3 * CONFIG.embed_dim)
same(first["weight"], params["blocks"]["attn"]["qkv"]["weight"][0])
params = jax.tree.map(jnp.asarray, params)

# %% [markdown]
# ## At real size
#
# The smallest GPT-2, with a head of its own and 256 positions: 162 million numbers as PyTorch draws
# them under seed
# 123. Before any training the book shows it two pieces of text and prints the loss. The book's
# other losses need its story; `scripts/verify.py` computes them from the file.

# %%
gpt2 = jaxgpt.ModelConfig(context_length=256, qkv_bias=False, tie_head=False)
leaves, form = jax.tree.flatten(init_like_torch(gpt2, 123))
print(f"{sum(leaf.size for leaf in leaves):,} numbers")
moved = [jnp.asarray(leaves.pop(0)) for _ in range(len(leaves))]  # one at a time: not 1.3 GB
weights = jax.tree.unflatten(form, moved)
inputs = jnp.array([[16833, 3626, 6100], [40, 1107, 588]])
targets = jnp.array([[3626, 6100, 345], [1107, 588, 11311]])
logits = jax.jit(lambda weights: jaxgpt.GPT(gpt2, weights)(inputs))(weights)
nats, count = jaxgpt.cross_entropy(logits, targets)
print("loss", nats / count, "and ln of the vocabulary", math.log(gpt2.vocab_size))
book("ch05.loss", nats / count)
book("ch05.perplexity", jnp.exp(nats / count))
book("ch05.argmax", logits.argmax(-1))
del weights, moved, logits

# %% [markdown]
# ## The same draws
#
# A text is drawn as well, a word at a time, by the words' probabilities. The book draws 1,000 times
# among nine words, at three temperatures; with the same generator the counts are the same.

# %%
words = jnp.array([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79])
drawn = {}
for temperature in ("1", "0.1", "5"):
    generator = TorchGenerator(123)
    chances = np.asarray(jax.nn.softmax(words / float(temperature)))
    draws = [int(generator.multinomial(chances)[0]) for _ in range(1000)]
    drawn[temperature] = np.bincount(draws, minlength=len(words))
    print(f"temperature {temperature:<4}", drawn[temperature])
book("ch05.multinomial", drawn)

# %% [markdown]
# What may be drawn is often cut first. **Top-p** keeps the fewest words that together reach a
# probability of p: a word stays if those likelier than it do not reach p without it.

# %%
settings = jaxgpt.SamplingConfig(temperature=5, top_p=0.9)
kept = np.isfinite(filter_logits(words[None], settings, jnp.zeros((1, 9), bool))[0])
without = [chances[chances > chance].sum() for chance in chances]  # those at temperature 5
print("kept", kept.astype(int), "likelier", np.array(without))
assert (kept == np.less(without, 0.9)).all()

# %% [markdown]
# ## What equal means
#
# **The idea in a breath.** A computer's number has few digits, so that each sum is rounded. Two
# programs that add the same numbers in another order round otherwise. So equal cannot mean the
# same digits. It means: no further apart than rounding explains.
#
# A **float32** has 24 binary digits, some 7 decimal ones. Here is a sum of 4,000 of them, forwards
# and backwards, and the exact one.

# %%
numbers = TorchGenerator(123).randn(4000)
forwards, backwards = np.cumsum(numbers)[-1], np.cumsum(numbers[::-1])[-1]
print(f"forwards {forwards:.6f}  backwards {backwards:.6f}  exact {math.fsum(numbers):.6f}")
large, small = np.float32(1e8), np.float32(1)
print(
    "(1e8 - 1e8) + 1 is", (large - large) + small, "and (1e8 + 1) - 1e8 is", (large + small) - large
)

# %% [markdown]
# One rounding is wrong by 2^-24 of a number at most, its **unit**. Many go up and down by chance,
# and largely cancel: n of them are wrong by about the root of n units. Measured against the largest
# number of an array, that is the package's bound: twice the root of n units.

# %%
lengths = 2 ** np.arange(2, 13)
apart, bounds = [], []
for length in lengths:
    sums = TorchGenerator(123).randn(200, length)
    one, other = (np.cumsum(part, axis=1)[:, -1] for part in (sums, sums[:, ::-1]))
    apart.append(np.abs(one - other).max() / max(np.abs(one).max(), np.abs(other).max()))
    bounds.append(rounding(int(length), 2.0**-24))
assert all(np.less_equal(apart, bounds))
figure, axes = figures.new(6.5, 3.4)
axes.loglog(
    lengths, lengths * 2.0**-24, ":", color=figures.QUIET, lw=2, label="n units, the worst case"
)
axes.loglog(lengths, bounds, "-", color=figures.INK, label="bound: twice the root of n units")
axes.loglog(lengths, apart, "o--", color=figures.LIT, label="two orders of 200 sums")
axes.set_xscale("log", base=2)
axes.set_xticks(lengths[::2], map(str, lengths[::2]))
axes.set_yticks(10.0 ** np.arange(-7, -3), [f"1e-{n}" for n in (7, 6, 5, 4)])
axes.set(xlabel="n, numbers in a sum", ylabel="difference (share of the largest)")
axes.legend(frameon=False, fontsize=9)
figures.show(
    figure,
    "The largest difference of 200 sums in two orders, as a share of the largest sum, against the "
    "length of a sum, both axes logarithmic: below the bound of twice the root of n units at every "
    "length, and the further below n units, the longer the sum.",
)

# %% [markdown]
# ## Activations by name
#
# **The idea in a breath.** Two programs give other logits. Where is the error? Do not read code:
# look at the numbers on the way. Whatever is first to differ was computed wrongly, as all before
# it agrees.
#
# The numbers on the way are the **activations**. Each has a name: what enters the first block,
# nine in each block, and two at the end. A **recording** holds all of them, with the loss and its
# gradients.

# %%
ours = record_model(CONFIG, params, tokens, "jaxgpt")
names = list(ours.activations)
for name in [name for name in names if "." not in name or name.startswith("blocks.0")]:
    print(f"{name:<22}{ours.activations[name].shape!s:<14}", ours.activations[name][0, 0, :3])
print("blocks.1 and blocks.2 alike;", len(names), "in all; loss", round(ours.loss, 4))

# %% [markdown]
# **Predict**, before you go on (exercise 11.1, 2 minutes, difficulty 1). A layer norm adds a small
# number to the variance, the **epsilon**, so that it never divides by 0. Someone writes 0.001 for
# 0.00001, in every norm. Which activation is the first to differ? Give its name.

# %%
answer = ...

# %%
check("11.1", answer)

# %% [markdown]
# Now the real thing. PyTorch built this model under seed 123 and ran it on the sentence; its
# recording was kept in a file. Nothing of ours went into it, not even the parameters. `roundings`
# counts the roundings on the way to each activation, and so gives each its bound.

# %%
torchs = recorded.of_torch()
counts = roundings(CONFIG, T)
bounds = {name: rounding(count, 2.0**-24) for name, count in counts.items()}
rows = differences(ours, torchs)
for row in rows[:4] + rows[-3:]:
    assert row.name == "loss" or row.bound == bounds[row.name]
    print(f"{row.name:<22} apart {row.relative:.0e}, bound {row.bound:.0e}")
verdict = compare(ours, torchs)
assert verdict.equal, verdict
print("equal:", verdict.equal)

# %% [markdown]
# **Yours to build** (exercise 11.2, 10 minutes, difficulty 2): `first_difference(a, b, bounds)`.
# `a` and `b` are dicts of activations, in the order in which they are computed, and `bounds` has a
# bound for each name. Give the name of the first that differs, or `None`. An activation differs
# where its largest difference is a larger share than its bound of the largest number in either.
# The check tries large and tiny numbers, zeros, and numbers that are undefined.

# %%
answer = ...  # def first_difference(a, b, bounds): ...  and then: answer = first_difference

# %%
check("11.2", answer)

# %% [markdown]
# ## The same training
#
# Equal once is not equal for ever. Training computes gradients, and steps by them. An error there
# shows in no activation, and builds up from step to step. So let both programs train: the
# same start, the same batches, the same optimizer. PyTorch's losses were recorded, in float32 and
# with twice the digits (float64).
#
# For contrast, one setting is forgotten: **weight decay**, which draws every matrix a little
# towards 0 at each step.


# %%
def losses_of(settings):
    optimizer = jaxgpt.make_optimizer(settings, TRAINING.steps)
    loss_fn, state = jaxgpt.next_token_loss(CONFIG), jaxgpt.init_state(params, optimizer)
    options = {"key": jax.random.key(0), "loss_fn": loss_fn, "optimizer": optimizer}
    step, losses = jax.jit(partial(jaxgpt.train_step, **options)), []
    for number, batch in enumerate(recorded.batches()):
        state, metrics = step(state, (batch.inputs, batch.targets), number)
        losses.append(float(metrics["loss"]))
    return np.array(losses)


trained, torch_losses = losses_of(TRAINING.optimizer), recorded.losses_of_torch()
bound = rounding(counts["logits"], 2.0**-24) * trained[0]
assert np.abs(trained - torch_losses["float32"]).max() < bound
assert np.abs(trained - torch_losses["float64"]).max() < bound
wrong = losses_of(replace(TRAINING.optimizer, weight_decay=0.0))
shown = [0, 1, 9, 49, 99]
print("PyTorch              ", torch_losses["float32"][shown])
print("jaxgpt               ", trained[shown])
print("without weight decay ", wrong[shown])

# %%
figure, (curve, gap) = figures.new(11, 3.6, columns=2)
steps = np.arange(1, TRAINING.steps + 1)
curve.plot(steps, torch_losses["float32"], color=figures.QUIET, lw=5, label="PyTorch")
curve.plot(steps, trained, "--", color=figures.INK, label="jaxgpt")
curve.set(xlabel="step", ylabel="loss (nats per byte)")
curve.legend(frameon=False)
for label, other, style, color in (
    ("jaxgpt without weight decay", wrong, "-", figures.LIT),
    ("jaxgpt", trained, "--", figures.INK),
    ("PyTorch in float64", torch_losses["float64"], ":", figures.SECOND),
):
    apart = np.maximum(np.abs(other - torch_losses["float32"]) * 1e6, 0.1)
    gap.semilogy(steps, apart, style, color=color, label=label)
gap.axhline(bound * 1e6, color=figures.INK, lw=0.8)
gap.annotate("bound", (100, bound * 1e6), (0, -13), textcoords="offset points", ha="right")
gap.set_yticks(10.0 ** np.arange(-1, 6), ["0", "1", "10", "100", "1,000", "10,000", "100,000"])
gap.set(xlabel="step", ylabel="from PyTorch (millionths of a nat)", ylim=(0.06, 3e6))
gap.legend(frameon=False, fontsize=9, loc="upper left", ncols=2)
figures.show(
    figure,
    "Left, the losses of 100 steps in PyTorch and in jaxgpt: one line. Right, on a logarithmic "
    "axis, how far from PyTorch's: jaxgpt, and PyTorch with twice the digits, stay below the "
    "bound; jaxgpt without weight decay is above it nearly throughout, up to hundreds of times.",
)

# %% [markdown]
# That the wrong one trains as well is the danger: its loss falls, and only a comparison shows it.

# %% [markdown]
# ## Eight planted bugs
#
# **The idea in a breath.** To learn what an error looks like, plant it. A **variant** is a model
# with one thing overridden: a setting, the norm, or what is computed at one place on the way. Seven
# bugs are those that rewritten GPTs really have; the eighth is none, but another order of sums.


# %%
def mask(points):  # each token sees the next one too
    places = jnp.arange(T)
    seen = places <= places[:, None] + 1
    return jax.nn.softmax(jnp.where(seen, points.seen["attn.scores"], -1e30))


def halves(points):  # the same product, in two halves
    weight, hidden = points.params["mlp"]["down"]["weight"], points.seen["mlp.hidden"]
    middle = len(weight) // 2
    product = hidden[..., :middle] @ weight[:middle] + hidden[..., middle:] @ weight[middle:]
    return product + points.params["mlp"]["down"]["bias"]


root = math.sqrt(CONFIG.embed_dim / CONFIG.num_heads)
BUGS = {
    "mask": {"at": {"attn.weights": mask}},
    "scale": {"at": {"attn.scores": lambda points: points.seen["attn.scores"] * root}},
    "epsilon": {"config": {"norm_epsilon": 1e-3}},
    "variance": {"norms": dict.fromkeys(("norm1", "norm2", "norm"), Norm(unbiased_norm))},
    "gelu": {"at": {"mlp.hidden": lambda at: jaxgpt.gelu(at.seen["mlp.up"], form="erf")}},
    "positions": {"position_offset": 1},
    "order": {"order": (1, 0, 2)},
    "nothing": {"at": {"mlp.out": halves}},
}

# %% [markdown]
# Each is recorded, and compared with the healthy model. The package's `compare` is a doctor: it
# finds the first difference, looks up what may go wrong at that place, tries each suspect on the
# healthy model, and names the one that leaves nothing over.

# %%
variant = Variant(CONFIG, params)
theirs = {name: record_variant(variant.changed(**bug), tokens) for name, bug in BUGS.items()}
found = {name: compare(ours, theirs[name]) for name in BUGS}
for name, verdict in found.items():
    print(f"{name:<10} first at {verdict.first.name if verdict.first else 'no activation'}")
    assert bool(verdict.causes) == (not verdict.equal) == (name != "nothing")
    for cause in verdict.causes:
        print(f"{'':<10} {cause}")

# %% [markdown]
# One bug in full: GELU by erf in place of tanh, two formulas for nearly the same curve. All is
# equal up to the activation function of block 0. From there on nothing is, by ten times and more
# what rounding explains. Another order of sums stays below its bound to the end.

# %%
figure, axes = figures.new(11, 4.2)
places = np.arange(len(names))
for name, style, color in (("gelu", "o-", figures.LIT), ("nothing", "s--", figures.SECOND)):
    relative = {row.name: row.relative for row in found[name].rows}
    shown = [max(relative[place], 1e-9) for place in names]
    label = {"gelu": "GELU by erf", "nothing": "another order of sums"}[name]
    axes.semilogy(places, shown, style, ms=5, color=color, label=label)
shown = [max(row.relative, 1e-9) for row in rows[: len(names)]]
axes.semilogy(places, shown, "x", ms=6, color=figures.INK, label="PyTorch")
axes.semilogy(places, [bounds[name] for name in names], ":", color=figures.INK, label="bound")
short = [name.replace("blocks.", "").replace("attn.", "").replace("mlp.", "") for name in names]
axes.set_xticks(places, short, rotation=90, fontsize=8.5)
axes.set(ylabel="difference (share of the largest)", xlabel="activation, in order (0. is block 0)")
axes.set_yticks(10.0 ** np.arange(-9, -2), ["0", *(f"1e-{n}" for n in range(8, 2, -1))])
axes.set(ylim=(5e-10, 1e-2))
axes.legend(frameon=False, ncols=4, loc="upper left")
figures.show(
    figure,
    "Difference of each of 33 activations from the healthy model's, on a logarithmic axis. With "
    "GELU by erf it is 0 up to the GELU of block 0, then far above the bound to the end. Another "
    "order of sums, and PyTorch itself, stay below the bound.",
)

# %%
share = np.zeros((len(BUGS), len(names)))
for row, name in enumerate(BUGS):
    relative = {row.name: row.relative for row in found[name].rows}
    share[row] = [relative[place] / bounds[place] for place in names]
figure, axes = figures.new(11, 4.2)
levels = np.log10(np.clip(share, 1, 1e5))
image = axes.imshow(levels, cmap="Blues", vmin=0, vmax=5, aspect="auto")
for row, name in enumerate(BUGS):
    first = found[name].first
    if first:
        axes.plot(names.index(first.name), row, "X", ms=11, color=figures.LIT, mec="white")
axes.set_xticks(places, short, rotation=90, fontsize=8.5)
axes.set_yticks(range(len(BUGS)), BUGS)
axes.set(xlabel="activation, in order (0. is block 0)", ylabel="planted bug")
bar = figure.colorbar(image, ticks=range(6))
bar.ax.set_yticklabels(["within", *(f"{10**n:,}" for n in range(1, 6))])
bar.set_label("difference (in bounds)")
figures.show(
    figure,
    "Eight planted bugs in rows, activations in columns, darker where the difference is more "
    "bounds; a cross marks the first. Positions show at embed, epsilon and variance at the first "
    "norm, mask and scale at the first context, GELU later, and nothing nowhere.",
)

# %% [markdown]
# The place of the cross already tells most. Two pairs share a place. How are they told apart?
#
# - **mask or scale**: the first token sees itself alone, whatever the scale. A wrong mask changes
#   its row of the context, a wrong scale does not.
# - **epsilon or variance**: one variance divides by D, the other by D - 1. So the ratio of the two
#   norms is the same for all tokens. An epsilon matters more, the smaller a token's own variance.

# %%
for name in ("mask", "scale"):
    a, b = (r.activations["blocks.0.attn.context"][0] for r in (ours, theirs[name]))
    print(f"{name:<9} context differs by token:", np.abs(a - b).max(-1)[:5])
for name in ("epsilon", "variance"):
    a, b = (r.activations["blocks.0.norm1"][0] for r in (ours, theirs[name]))
    print(f"{name:<9} norm's ratio by token:  ", np.median(b / a, axis=-1)[:5])
print("root of (D - 1) / D:", round(math.sqrt((CONFIG.embed_dim - 1) / CONFIG.embed_dim), 4))

# %% [markdown]
# ## Find the bug
#
# Three models are sealed: `sealed(seed)` is a recording of a model in which one thing may be wrong.
# The seed chose it, and you see activations alone. Diagnose each, in the words of `KINDS`, before
# you ask the doctor (exercise 11.3, 12 minutes, difficulty 3). Your `first_difference` and the two
# tests above are enough. Any other seed gives one more to practise on.

# %%
print("words:", ", ".join(KINDS))
for seed in SEALED:
    model = sealed(seed)
    print(model.name, "embed", model.activations["embed"][0, 0, :3])
answer = ...  # three words, in order

# %%
check("11.3", answer)

# %%
if answer is not ...:  # the doctor, after you
    for seed in SEALED:
        print(seed, *compare(ours, sealed(seed)).causes)

# %% [markdown]
# ## In the library
#
# PyTorch's random numbers are in `jaxgpt/parity/torch_random.py`, and `compare` with its table of
# causes in `jaxgpt/parity`. `scripts/compare.py` compares two folders, or a folder and a PyTorch
# module of your own. `tests/parity/test_compare.py` plants every known cause in PyTorch's model,
# and holds that each is found where it stands and called by its name.
#
# ## What you know now
#
# - The same rule from the same seed gives the same numbers, so that two programs can begin alike.
# - Equal means no further apart than rounding explains: about the root of as many units as there
#   are roundings, as a share of the largest number.
# - The first activation that differs says where the error is, and trying its causes says which.
#
# Next: 12, where a model outgrows one device.
