# %% [markdown]
# # 06 Pretraining
#
# **What you will build**: the loop that makes a model out of random numbers. A loss says how wrong
# it is, a gradient which way is better, an update goes there. And as our stories come from a known
# grammar, you will see how much of what can be learnt a model has learnt. You need Python and
# arrays; no machine learning. 30 minutes.

# %%
import math
import os
from collections import Counter
from contextlib import redirect_stderr
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import jax.numpy as jnp
import numpy as np

import jaxgpt
from course import book, check, figures, same
from course.exercises.pretraining import suspect
from course.model import RUN, trained
from jaxgpt import OptimizerConfig, TorchGenerator
from jaxgpt.data.grammar import Grammar, one_of
from jaxgpt.data.stories import STORIES, tell_story
from jaxgpt.training.metrics import read_metrics
from jaxgpt.training.step import gradients

np.set_printoptions(precision=4, suppress=True)
model = trained()  # of the preset small; this notebook shows how, and then looks into it

# %% [markdown]
# ## The path

# %%
figures.path_strip(
    "logits",
    [
        *("stories", f"V = {model.config.vocab_size:,}", f"D = {model.config.embed_dim}"),
        *(f"{model.config.num_heads} heads", f"{model.config.num_layers} of them"),
        *("held against\nthe target", "notebook 07", "notebook 07"),
    ],
)

# %% [markdown]
# ## The loss: how surprised the model is
#
# **The idea in a breath.** After each token, a model gives every token of the vocabulary a score,
# its **logit**. Softmax (notebook 04) turns them into probabilities. The text knows which token
# came, the target (notebook 02). The more probability it had, the better.
#
# The **loss** of one target is minus the logarithm of its probability: 0 for what was certain, and
# without end for what was held impossible. Logarithms turn products into sums, so the losses of
# tokens add up to that of the text. With natural logarithms it is counted in **nats**, with base 2
# in **bits**; a nat is 1 / ln 2 bits. This loss is called **cross-entropy**.

# %%
logits = jnp.array([[2.0, 1.0, 0.0, -1.0], [0.5, 0.5, 0.5, 0.5], [-3.0, 0.0, 1.0, 4.0]])
targets = jnp.array([0, 2, 0])
for row, target in zip(logits, targets, strict=True):
    probabilities = jnp.exp(row) / jnp.exp(row).sum()
    chance = float(probabilities[target])
    print(probabilities, f"target {target}: loss {-math.log(chance):.4f} nats")


# %%
def surprise(logits, targets):
    """The loss of each target in nats; the largest logit is taken out, as in softmax."""
    largest = logits.max(-1, keepdims=True)
    total = jnp.log(jnp.exp(logits - largest).sum(-1)) + largest[..., 0]
    return total - jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]


nats, count = jaxgpt.cross_entropy(logits, targets)  # a sum and a number, for sums add up
same(surprise(logits, targets).sum(), nats)
print(f"mean loss {float(nats / count):.4f} nats for each of {count} targets")

# %%
figure, axes = figures.new(6.5, 3.4)
chances = np.linspace(0.0005, 1, 400)
axes.plot(chances, -np.log(chances), color=figures.SECOND)
for loss, name in zip(surprise(logits, targets), ["first", "second", "third"], strict=True):
    place = (math.exp(-float(loss)), float(loss))
    axes.plot(*place, "o", color=figures.LIT)
    axes.annotate(f"{name} target", place, (10, 4), textcoords="offset points")
axes.set(xlabel="probability of the target", ylabel="loss (nats)", xlim=(0, 1), ylim=(0, 8))
figures.show(
    figure,
    "The loss of a target against its probability: a curve from 0 at probability 1 that rises "
    "steeply towards probability 0, with the three targets on it as dots.",
)

# %% [markdown]
# Two other units say the same. **Perplexity** is e to the mean loss: among how many equally likely
# tokens the model seems to choose. **Bits per byte** divide a text's bits by its bytes, since a
# loss per token depends on how long tokens are. Here is a model that knows nothing, so that all V
# tokens are alike to it and each target costs ln V.

# %%
text = tell_story(0, seed=1).text
for tokenizer in (jaxgpt.load_tokenizer("bytes"), model.tokenizer):
    V, length = tokenizer.vocab_size, len(tokenizer.encode(text))
    per_byte = length * math.log2(V) / len(text.encode())
    print(
        f"V {V:>5}: {length} tokens, {math.log(V):.2f} nats each, perplexity {V:,}, "
        f"{per_byte:.2f} bits per byte"
    )

# %% [markdown]
# GPT-2's shape with random parameters knows nothing either. The book's numbers, from PyTorch's
# random numbers, made here without PyTorch:

# %%
gpt2 = jaxgpt.ModelConfig(context_length=256, qkv_bias=False, tie_head=False)
params = jax.tree.map(jnp.asarray, jaxgpt.init_like_torch(gpt2, 123))
inputs = jnp.array([[16833, 3626, 6100], [40, 1107, 588]])  # every effort moves, I really like
targets = jnp.array([[3626, 6100, 345], [1107, 588, 11311]])  # effort moves you, ...
logits = jaxgpt.GPT(gpt2, params)(inputs)
nats, count = jaxgpt.cross_entropy(logits, targets)
print(f"loss {nats / count:.3f}, ln V {math.log(gpt2.vocab_size):.3f}")
book("ch05.argmax", logits.argmax(-1))
book("ch05.probas", jnp.exp(-surprise(logits, targets)))
book("ch05.log_probas", -surprise(logits, targets).ravel())
book("ch05.loss", nats / count)
book("ch05.perplexity", jnp.exp(nats / count))
del params, logits

# %% [markdown]
# ## Entropy: how good is possible
#
# **The idea in a breath.** An urn has three balls that say cat and one that says dog. Nobody can
# foretell the next ball. The best a model can do is to know the shares. Its mean loss is then the
# **entropy** of the urn, and every other belief costs more.

# %%
shares = {"cat": 3 / 4, "dog": 1 / 4}
entropy = sum(share * math.log2(1 / share) for share in shares.values())
same(entropy, Grammar({"animal": one_of("cat 3, dog")}).entropy())
for cat in (0.5, 0.7, 0.75, 0.8, 0.99):
    cost = shares["cat"] * math.log2(1 / cat) + shares["dog"] * math.log2(1 / (1 - cat))
    print(f"believing in cat by {cat:.2f}: {cost:.4f} bits a ball")

# %% [markdown]
# **Predict** (exercise 06.1, 2 minutes, difficulty 1): an urn has two red balls, a blue one and a
# green one. A model trains on draws from it, without end. What is its mean loss then, in bits?

# %%
answer = ...

# %%
check("06.1", answer)

# %% [markdown]
# Our stories are such draws, from dozens of urns. So we know of every story how many bits it
# holds, which choice wrote each piece, and what that piece tells one who knows the grammar.

# %%
story = tell_story(1, seed=1)
spans = STORIES.spans(story.facts)
for span in spans[:17]:
    print(f"{span.bits:6.2f} bits  {span.choice:>9}  {story.text[span.start : span.end]!r}")
print(f"... in all {sum(span.bits for span in spans):.2f}, and of the story {story.bits:.2f}")
bits = [tell_story(index, seed=1).bits for index in range(400)]
print(f"mean of 400 stories {np.mean(bits):.1f}, entropy {jaxgpt.story_entropy():.1f} bits")

# %% [markdown]
# No model can do better than the entropy: what is lower has learnt its text by heart.
#
# ## The gradient: which way is down
#
# **The idea in a breath.** A model's **parameters** are the numbers that training may change. Turn
# one a little: does the loss rise or fall, and how fast? That slope, for all parameters, is the
# **gradient**. Go the other way, and the loss falls.
#
# The book's example has a weight and a bias. JAX finds by rules what we find by trying.


# %%
def loss(weight, bias):
    return -jax.nn.log_sigmoid(1.1 * weight + bias)  # the input is 1.1, the right answer yes


little = 1e-2
tried = [
    (loss(2.2 + little, 0.0) - loss(2.2 - little, 0.0)) / (2 * little),
    (loss(2.2, little) - loss(2.2, -little)) / (2 * little),
]
slopes = jax.grad(loss, argnums=(0, 1))(2.2, 0.0)
same(jnp.array(tried), jnp.array(slopes), atol=1e-4)
book("appA.grads", slopes)

# %% [markdown]
# How far to go is the **learning rate**: a parameter's change is minus the rate times its slope.


# %%
def valley(weight):
    return jax.nn.softplus(-2 * weight) + jax.nn.softplus(weight)


figure, panels = figures.new(11, 3.4, columns=3, sharey=True)
line = np.linspace(-4, 8, 200)
for axes, rate, name in zip(panels, (0.2, 1.5, 5.0), ("low", "right", "high"), strict=True):
    weights = [jnp.array(-3.0)]
    for _ in range(8):
        weights.append(weights[-1] - rate * jax.grad(valley)(weights[-1]))
    axes.plot(line, valley(line), color=figures.QUIET)
    axes.plot(weights, valley(jnp.stack(weights)), "o--", color=figures.LIT, lw=1, ms=5)
    axes.plot(weights[0], valley(weights[0]), "s", color=figures.INK, ms=8)
    axes.set(xlabel="weight (no unit)", title=f"rate {rate}: {name}", xlim=(-4.3, 8.3))
panels[0].set(ylabel="loss (nats)", ylim=(0, 9))
figures.show(
    figure,
    "Eight steps from the square down a valley of the loss, with three learning rates: by the low "
    "one they have not arrived, by the right one they rest at the bottom, by the high one they "
    "leap from side to side.",
)

# %% [markdown]
# Now a whole training, the book's: five points, two classes, a network of three layers. The order
# of the points is PyTorch's, and two are taken at a time.

# %%
x = jnp.array([[-1.2, 3.1], [-0.9, 2.9], [-0.5, 2.6], [2.3, -1.1], [2.7, -1.5]])
y = jnp.array([0, 0, 0, 1, 1])
generator = TorchGenerator(123)
sizes = ((2, 30), (30, 20), (20, 2))
layers = [jax.tree.map(jnp.asarray, generator.linear(*size)) for size in sizes]


def outputs(layers, x):
    for layer in layers[:-1]:
        x = jax.nn.relu(jaxgpt.linear(x, **layer))  # negative numbers become 0
    return jaxgpt.linear(x, **layers[-1])


def mean_loss(layers, x, y):
    nats, count = jaxgpt.cross_entropy(outputs(layers, x), y)
    return nats / count


# %%
seen = []
for _ in range(3):  # epochs
    for rows in generator.loader_order(5)[:4].reshape(2, 2):
        loss, gradient = jax.value_and_grad(mean_loss)(layers, x[rows], y[rows])
        layers = jax.tree.map(lambda leaf, slope: leaf - 0.5 * slope, layers, gradient)
        seen.append(float(loss))
print("losses", np.array(seen))
book("appA.params_toy", sum(leaf.size for leaf in jax.tree.leaves(layers)))
book("appA.losses", seen)
book("appA.outputs", outputs(layers, x))
book("appA.probas", jax.nn.softmax(outputs(layers, x)))

# %%
generator = TorchGenerator(123)  # the same chapter's larger network, and its orders
wider = [generator.linear(*size) for size in ((50, 30), (30, 20), (20, 3))]
book("appA.params", sum(leaf.size for leaf in jax.tree.leaves(wider)))
weight = wider[0]["weight"].T[[0, 1, -1]][:, [0, 1, 2, -3, -2, -1]]
book("appA.w0", dict(zip(("[0]", "[1]", "[-1]"), weight, strict=True)))
generator = TorchGenerator(123)
book("appA.loader_order", [generator.loader_order(5), generator.loader_order(5)[:4]])

# %% [markdown]
# ## The step taken apart
#
# A GPT is trained by the same loop. Its step has two parts more, clipping and AdamW. Here it is on
# the preset `tiny`, which reads bytes.

# %%
tokenizer = jaxgpt.load_tokenizer("bytes")
config = replace(jaxgpt.get_preset("tiny").model, vocab_size=tokenizer.vocab_size)
text = "".join(tell_story(index, seed=0).text for index in range(60))
windows = jaxgpt.SlidingWindows(np.array(tokenizer.encode(text)), config.context_length)
loss_fn = jaxgpt.next_token_loss(config)


def batch_at(step, size=16):
    batch = windows.batch(first=size * step, batch_size=size, seed=0)
    return jnp.asarray(batch.inputs), jnp.asarray(batch.targets)


def measured(params, batch):
    nats, count = loss_fn(params, batch, None)
    return nats / count


params = jaxgpt.init_params(config, jax.random.key(0))
loss, gradient = jax.jit(jax.value_and_grad(measured))(params, batch_at(0))
print(f"{jaxgpt.count_parameters(config):,} parameters, loss {loss:.4f} nats")
print(f"ln V {math.log(config.vocab_size):.4f}")

# %% [markdown]
# **Clipping.** The **norm** of the gradient, the root of the sum of all its squares, says how steep
# the loss is. Where a strange batch makes it larger than a limit, the whole gradient is scaled down
# to it.

# %%
norm = math.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(gradient)))
clipped = jax.tree.map(lambda leaf: leaf * min(1.0, 1.0 / norm), gradient)
print(f"norm {norm:.4f}, limit 1")

# %% [markdown]
# **AdamW.** Slopes of some parameters are a thousand times those of others, and one learning rate
# cannot suit both. So keep two running means for each parameter: of its slope (a step keeps b1 =
# 0.9 of the old mean, and adds 1 - b1 of what is new), and of the slope's square (b2 = 0.95).
# Divide the first by the root of the second, and all move at about the same pace.
#
# - Both means begin at 0, so that after n steps they are too small by a factor 1 - b ** n. Divide
#   by it: that is the **bias correction**. The means themselves are kept without it.
# - **Epsilon**, a tiny number, is added to the root, so that nothing is divided by 0.
# - **Weight decay**: each weight also shrinks, by learning rate times decay. It does not go through
#   the means; that is the W in the name.
#
# At the first step, the corrected means are the slope and its square. Their quotient is the sign.

# %%
settings = OptimizerConfig(
    learning_rate=5e-3, schedule="constant", warmup_steps=0, weight_decay_on="all"
)
optimizer = jaxgpt.make_optimizer(settings, steps=100)
state = jaxgpt.init_state(params, optimizer)
first = jax.tree.map(
    lambda leaf, slope: -5e-3 * (slope / (jnp.abs(slope) + 1e-8) + 0.1 * leaf), params, clipped
)
changes, _ = jax.jit(optimizer.update)(gradient, state.opt_state, params)
for mine, packages in zip(jax.tree.leaves(first)[:4], jax.tree.leaves(changes)[:4], strict=True):
    same(mine, packages, atol=3e-6)

# %% [markdown]
# The general step is yours to build (exercise 06.2, 15 minutes, difficulty 3):
# `adamw(weight, slope, mean, square, n, rate, decay)` gives the new weight, mean and square. Arrays
# have one shape, n counts from 1, and b1, b2 and epsilon are 0.9, 0.95 and 1e-8. The check compares
# it with the package on large and tiny slopes, on zeros, late and early.

# %%
answer = ...  # def adamw(weight, slope, mean, square, n, rate, decay): ...  and: answer = adamw

# %%
check("06.2", answer)

# %% [markdown]
# The package's whole step is `train_step`: it takes state, batch and the step's number, and gives
# the new state. The list `programs` is for the next section.

# %%
programs = []


def counted(params, batch, rng):
    programs.append(batch[0].shape)
    return loss_fn(params, batch, rng)


key = jax.random.key(0)
step = jax.jit(partial(jaxgpt.train_step, key=key, loss_fn=counted, optimizer=optimizer))
after, metrics = step(state, batch_at(0), np.int32(0))
same(metrics["loss"], loss)
same(metrics["grad_norm"], norm)
moved = jax.tree.map(jnp.add, params, changes)
same(moved["embed"]["tokens"], after.params["embed"]["tokens"], atol=3e-6)

# %%
figure, axes = figures.new(11, 2.2)
axes.set(xlim=(0, 7), ylim=(0.35, 2.2))
axes.axis("off")
parts = ["batch", "logits", "loss", "gradient", "clipping", "AdamW", "parameters"]
below = ["16 windows of 64", f"16 x 64 x {config.vocab_size}", f"{loss:.3f} nats"]
below += [f"norm {norm:.2f}", "to norm 1", "two means\na parameter"]
below += [f"{jaxgpt.count_parameters(config):,}"]
for place, (part, value) in enumerate(zip(parts, below, strict=True)):
    figures.box(axes, place + 0.08, 1.0, 0.78, 0.6, part, lit=part == "loss")
    axes.text(place + 0.47, 0.88, value, ha="center", va="top", fontsize=9)
    if place:
        figures.arrow(axes, (place - 0.14, 1.3), (place + 0.08, 1.3))
axes.plot([6.47, 6.47, 1.47], [1.62, 1.95, 1.95], color=figures.INK, lw=1)
figures.arrow(axes, (1.47, 1.95), (1.47, 1.6))
axes.text(3.9, 2.0, "the next step uses the new parameters", ha="center", va="bottom", fontsize=9)
figures.show(
    figure,
    "One step as a row of boxes: batch, logits, loss, gradient, clipping, AdamW, parameters, with "
    "a live value below each; an arrow leads from the parameters back to the logits.",
)

# %% [markdown]
# ## What is compiled, and when
#
# `jax.jit` runs a Python function once, on arrays without values, writes down the operations and
# compiles them. The program serves for all arrays of the same shapes and types. What Python does
# in the function happens at that one time only, so it can count programs.

# %%
written = jax.make_jaxpr(lambda slope: 2.0 * slope + 1.0)(jnp.ones(3))
print(written.pretty_print(use_color=False))
for number in range(1, 5):
    after, metrics = step(after, batch_at(number), np.int32(number))
print("after five steps:", programs)
step(after, batch_at(5, size=8), np.int32(5))
print("after a smaller batch:", programs)

# %% [markdown]
# The step's number is an argument. Were it written into the function, every step would be compiled
# anew. In a whole run, the learning rate and the seed are arguments too.
#
# ## A batch in pieces: gradient accumulation
#
# **The idea in a breath.** A batch that does not fit into memory is cut into **micro-batches**. Sum
# up their losses and gradients, and divide once, at the end, by the number of targets. That is the
# gradient of the whole, also where a piece has fewer targets than another.

# %%
inputs, targets = batch_at(0)
ragged = jnp.where(jnp.arange(64) < jnp.arange(4, 68, 4)[:, None], targets, -100)  # 4, 8, 12, ...
whole_and_cut = jax.jit(
    lambda batch: [gradients(loss_fn, params, batch, jax.random.key(0), n)[0] for n in (1, 4)]
)
for name, batch in {"full": (inputs, targets), "ragged": (inputs, ragged)}.items():
    print(f"{name}: {int((batch[1] != -100).sum())} targets")
    whole, cut = whole_and_cut(batch)
    same(whole["embed"]["tokens"], cut["embed"]["tokens"])

# %% [markdown]
# **Find the bug** (exercise 06.3, 8 minutes, difficulty 2). A run on full batches went as ever;
# then came records of unequal length, and accumulation made a difference. `suspect` computes its
# gradient. Is the error in the `"targets"` (those of -100 are counted), the `"rows"` (a micro-batch
# is left out), the `"sum"` (the pieces' means are added and not divided), the `"counts"` (each
# piece is divided by its own number of targets), or the `"shift"` (targets are a place off)?

# %%
for name, batch in {"full": (inputs, targets), "ragged": (inputs, ragged)}.items():
    for pieces, right in zip((1, 4), whole_and_cut(batch), strict=True):
        found = suspect(loss_fn, params, batch, pieces)
        apart = max(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.abs(a - b).max(), found, right)))
        print(f"{name:>6} batch in {pieces}: {'equal' if apart < 1e-5 else f'{apart:.3f} apart'}")
answer = ...

# %%
check("06.3", answer)

# %% [markdown]
# ## The learning rate over the steps
#
# **The idea in a breath.** At first the means rest on few slopes: begin with small steps, the
# **warm-up**. In between, go fast. At the end, leaps across the valley keep the loss up: slow down.

# %%
figure, axes = figures.new(6.5, 3.2)
for (kind, style), color in zip(
    {"cosine": "-", "wsd": "--", "constant": ":"}.items(),
    (figures.SECOND, figures.LIT, figures.INK),
    strict=True,
):
    rate = jaxgpt.learning_rate(OptimizerConfig(schedule=kind, warmup_steps=20), 200)
    axes.plot(rate(jnp.arange(200)) * 1e4, style, color=color, label=kind, lw=2)
axes.set(xlabel="step", ylabel="learning rate (1e-4)", xlim=(0, 200), ylim=(0, 6.6))
axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.12, 0.05))
figures.show(
    figure,
    "Learning rate over 200 steps: all three schedules rise in a straight line for 20 steps; then "
    "cosine falls in a half wave, wsd (warm-up, stable, decay) stays and falls at the end, "
    "constant stays.",
)

# %%
settings = OptimizerConfig(
    **{"learning_rate": 1e-3, "initial_learning_rate": 1e-5, "final_learning_rate": 1e-5},
    warmup_steps=27,
)
with jax.enable_x64(True):
    rate = jaxgpt.learning_rate(settings, 135)
    book("appD.lr_schedule", {step: rate(jnp.asarray(step)) for step in (0, 1, 26, 27, 81, 134)})

# %% [markdown]
# ## Overfitting, on purpose
#
# Before a long run, train on one batch. If its loss does not fall towards 0, the step is wrong.
# When it does, look at other text, **held out** from training: its loss soon rises. The model
# learns its batch by heart, and what it learns is false elsewhere: it **overfits**.

# %%
state, other, curve = jaxgpt.init_state(params, optimizer), batch_at(1), []
measure = jax.jit(measured)
for number in range(400):
    state, metrics = step(state, batch_at(0), np.int32(number))
    if number % 20 == 19:
        curve.append((number + 1, metrics["loss"], measure(state.params, other)))
steps, own, held_out = np.array(curve).T
floor = jaxgpt.story_entropy() * math.log(2) * 60 / len(text)
print(f"one batch {own[-1]:.3f}, held out {held_out.min():.3f} and then {held_out[-1]:.3f} nats")
assert own[-1] < floor < held_out.min() < held_out[-1] - 0.5

# %%
figure, axes = figures.new(6.5, 3.4)
axes.plot(steps, held_out, "s--", color=figures.LIT, ms=4, label="a batch that is held out")
axes.plot(steps, own, "o-", color=figures.SECOND, ms=4, label="the one batch")
axes.axhline(floor, color=figures.INK, ls=":", label="entropy of the stories")
axes.set(xlabel="step", ylabel="loss (nats per byte)", xlim=(0, 400), ylim=(0, None))
axes.legend(frameon=False)
figures.show(
    figure,
    "Training on one batch for 400 steps: its loss falls below the entropy of the stories, to "
    "nearly 0, while the loss of a held-out batch rises.",
)

# %% [markdown]
# Below the entropy: that is how you know text learnt by heart.
#
# ## Killed and resumed
#
# **The idea in a breath.** A long run will be killed once. So a **checkpoint** keeps all that a
# step changes: parameters, both means, the number of the step. The order of batches and all else
# that is random are functions of seed and step (notebook 02). So the run goes on as if nothing had
# been, to the last bit.


# %%
class Killed(Exception):
    pass


def kill(config, params, tokenizer):  # called where a sample is due, after 25 steps
    raise Killed


preset = jaxgpt.get_preset("tiny")
short = replace(preset, steps=40, checkpoint_every=10, evaluate_every=40, sample_every=25)
short = replace(short, data=replace(short.data, stories_bytes=20_000))
with TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
    whole = jaxgpt.pretrain(short, Path(folder, "whole")).state
    try:
        jaxgpt.pretrain(short, Path(folder, "killed"), sampler=kill)
    except Killed:
        kept = sorted(path.name for path in Path(folder, "killed", "checkpoints").iterdir())
    resumed = jaxgpt.pretrain(short, Path(folder, "killed")).state

# %%
equal = [bool((a == b).all()) for a, b in zip(*map(jax.tree.leaves, (whole, resumed)), strict=True)]
print(f"killed after 25 steps, with checkpoints {kept}")
print(f"after {whole.step} and {resumed.step} steps, {sum(equal)} of {len(equal)} arrays are equal")
assert all(equal)

# %% [markdown]
# ## Pretraining at real size
#
# `pretrain` does all of this in a folder. `small` is the model that it makes of the bundled
# stories by `make train`. To judge it,
# we need yardsticks: models that know nothing; how often each token comes (**unigram**); how often
# each comes after each (**bigram**); and the grammar.


# %%
def entropy_of(counts):
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


dataset = jaxgpt.TokenDataset.open(RUN / "tokens")
train, held_out = dataset.split("train"), dataset.split("validation")
tokens, V = train.read(0, len(train)), model.config.vocab_size
unigram = entropy_of(np.bincount(tokens))
pairs = entropy_of(np.bincount(tokens[:-1].astype(np.int64) * V + tokens[1:]))
records = read_metrics(RUN)
measured = {r["step"]: r["validation_loss"] for r in records if "validation_loss" in r}
last = [r for r in records if "validation_loss" in r][-1]
per_byte = held_out.tokens_per_byte / math.log(2)
yardsticks = {"ln V, knows nothing": math.log(V), "unigram": unigram, "bigram": pairs - unigram}
yardsticks["the model, held out"] = last["validation_loss"]
yardsticks["the grammar"] = last["entropy_bits_per_byte"] / per_byte
for name, nats in yardsticks.items():
    print(f"{name:>20}: {nats:.3f} nats per token, perplexity {math.exp(nats):8.2f}, ", end="")
    print(f"{nats * per_byte:.3f} bits per byte")

# %%
figure, axes = figures.new(10, 4.2)
curve = np.array([(r["step"], r["loss"]) for r in records if "loss" in r])
axes.plot(*curve.T, color=figures.SECOND, lw=1.5, label="training batches")
axes.plot(*zip(*measured.items(), strict=True), "s", color=figures.LIT, label="held out")
for name, style in {
    "ln V, knows nothing": "-.",
    "unigram": "--",
    "bigram": (0, (1, 2)),
    "the grammar": "-",
}.items():
    axes.axhline(yardsticks[name], color=figures.INK, ls=style, lw=1)
    axes.text(1010, yardsticks[name], name, va="center")
axes.set(xlabel="step", ylabel="loss (nats per token)", xlim=(0, 1000), ylim=(0, 8.2))
axes.legend(frameon=False, loc="upper right", bbox_to_anchor=(0.98, 0.9))
figures.show(
    figure,
    "Loss of the model over 1,000 steps: it starts at ln V, passes the unigram and the bigram "
    "yardstick within the first hundred steps, and ends just above that of the grammar.",
)

# %% [markdown]
# ## What it has learnt
#
# The model ends near what is possible, and above it. What does it lack? Add up its bits by the
# choice that wrote each token, and beside them the grammar's. These stories are held out, and each
# is read behind another.

# %%
rows, pieces, T = [], [], model.config.context_length
for index in range(1, 97):
    before, story = (tell_story(number, seed=1) for number in (index - 1, index))
    ids = model.tokenizer.encode(before.text + story.text + "Once")[:-1]  # a blank line ends it
    ends = np.cumsum([len(model.tokenizer.decode([token])) for token in ids]) - len(before.text)
    ids, ends = ids[-T - 1 :], ends[-T - 1 :]
    rows.append(np.pad(ids, (0, T + 1 - len(ids))))
    pieces.append((story, ends, np.concatenate([[0], ends[:-1]])))
rows = np.array(rows)


@jax.jit
def bits_of(params, rows):
    logits = jaxgpt.GPT(model.config, params)(rows[:, :-1])
    return surprise(logits, rows[:, 1:]) / math.log(2)


told = np.concatenate([bits_of(model.params, rows[i : i + 16]) for i in range(0, 96, 16)])
print(told.shape, "bits of the tokens of 96 stories, and of those before them")

# %% [markdown]
# What need not be drawn anew must be remembered: the pet's name when it comes again, the complaint
# that follows from what was packed, the moral that follows from the hero's trait. Some bits are
# possible there as well: that a sentence names the pet, and not the hero, is free.

# %%
AGAIN = {"friend": "pet's name, again", "hero": "hero's name, again", "tool": "tool, again"}
AGAIN |= dict.fromkeys(("fern", "wick"), "town, again")
GIVEN = {"plaint": "complaint, by tool", "moral": "moral, by trait", "month": "month, by weather"}
GIVEN |= dict.fromkeys(("finds", "spot", "gift"), "things, by place")
FREE = "all that is free"
ours, grammars, shown = Counter(), Counter(), {}
for number, (story, ends, starts) in enumerate(pieces):
    owner, seen = [], set()
    for span in STORIES.spans(story.facts):
        again = AGAIN.get(span.choice, FREE) if span.choice in seen else FREE
        kind = GIVEN.get(span.choice, again)
        seen.add(span.choice)
        grammars[kind] += span.bits / 96
        owner += [(kind, span)] * (span.end - span.start)
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if start >= 0 and end > 0:  # a token belongs to its first letter
            first = start + (story.text[start] == " ")
            ours[owner[first][0]] += told[number, place - 1] / 96
            shown[number, place] = start, end, told[number, place - 1], owner[first][1]
kinds = sorted(ours, key=lambda kind: ours[kind] - grammars[kind])[::-1]
for kind in kinds:
    print(f"{kind:>20}: {ours[kind]:7.2f} bits, possible {grammars[kind]:7.2f}")
print(f"{'a story':>20}: {ours.total():7.2f} bits, possible {grammars.total():7.2f}")

# %%
figure, (left, right) = figures.new(11, 3.8, columns=2, gridspec_kw={"width_ratios": [2.4, 1]})
remembered = [kind for kind in kinds if kind != FREE][::-1]
for axes, names in ((left, remembered), (right, [FREE])):
    heights = np.arange(len(names))
    for bits, offset, color, label in (
        (ours, 0.2, figures.LIT, "the model"),
        (grammars, -0.2, figures.QUIET, "possible"),
    ):
        axes.barh(heights + offset, [bits[n] for n in names], 0.38, color=color, label=label)
        for height, name in zip(heights, names, strict=True):
            axes.text(bits[name], height + offset, f" {bits[name]:.1f}", va="center", fontsize=9)
    axes.set_yticks(heights, names)
    axes.set(
        xlabel="bits a story",
        xlim=(0, (1.15 if axes is left else 1.4) * max(ours[n] for n in names)),
    )
right.set(ylim=(-0.9, 0.9))
left.legend(frameon=False, loc="lower right")
figures.show(
    figure,
    "Bits a story by kind of choice, the model's beside those possible: the pet's name when it "
    "comes again and the moral cost the model far more than they need; all that is free costs "
    "almost exactly what it must.",
)

# %%
excess = {kind: ours[kind] - grammars[kind] for kind in kinds}
print(f"too much in all: {sum(excess.values()):.1f} bits a story")
print(
    f"of these, by what is free: {excess[FREE]:.1f}, or {excess[FREE] / grammars[FREE]:.1%} of it"
)
assert abs(excess[FREE]) < 0.02 * grammars[FREE]
assert excess[FREE] < 0.25 * sum(excess.values())
assert ours["pet's name, again"] > 3 * grammars["pet's name, again"]

# %% [markdown]
# The many words that are free it guesses as well as anyone can. What it lacks is memory: **it has
# learnt everything but to remember.** Which parts of it do remember is the question of notebook 08.
#
# Below, one story word by word; dark is surprise. Where the upper band is dark and the lower one is
# white, the model guesses at what it has read before.

# %%
named = [story.text.count(story.facts["friend"]) for story, *_ in pieces]
chosen, row, column, last = named.index(3), 0, 0, None
figure, axes = figures.new(11, 4.4)
axes.axis("off")
for (number, _), (start, end, bits, span) in shown.items():
    word, possible = pieces[number][0].text[start:end], 0.0 if span is last else span.bits
    if number != chosen or not word.strip():
        continue
    if column + len(word) > 92:
        row, column = row + 1, 0
    last, column = span, column + (word[0] == " " and column > 0)
    word = word.strip()
    for amount, height, bottom in ((bits, 0.62, 0.3), (possible, 0.22, 0.04)):
        color = str(1 - 0.07 * min(amount, 8))
        axes.bar(column, height, len(word), bottom - row, align="edge", color=color, ec="white")
    middle = (column + len(word) / 2, 0.6 - row)
    axes.text(*middle, word, ha="center", va="center", family="monospace", fontsize=10.5)
    column += len(word)
for bits in (0, 2, 4, 6, 8):
    axes.bar(5 * bits / 2, 0.5, 5, -row - 1.1, align="edge", color=str(1 - 0.07 * bits), ec="k")
    axes.text(5 * bits / 2 + 2.5, -row - 0.85, f"{bits}", ha="center", va="center")

# %%
axes.text(26, -row - 0.85, "bits; upper band the model, lower band the grammar", va="center")
axes.set(xlim=(0, 93), ylim=(-row - 1.2, 1))
figures.show(
    figure,
    "A story token by token, each shaded by the bits that it cost the model, with the bits by the "
    "grammar in a band below: both are dark at free words. Where the upper band "
    "is the darker one, the model has not remembered.",
)

# %% [markdown]
# ## In the library
#
# The loss is in `jaxgpt/training/loss.py`, the step in `step.py` and `optimizer.py` beside it, the
# loop in `loop.py`, the whole run in `pretrain.py`. `tests/training/test_optimizer.py` shows that
# the update is PyTorch's, `test_step.py` that pieces give the gradient of the whole, and
# `test_pretrain.py` that a run which was killed ends with the same bits.
#
# ## What you know now
#
# - The loss is the target's surprise; the entropy of the text is the least that it can be.
# - A step is gradient, clipping and AdamW, a function of state, batch and number.
# - Bits by kind of choice say not only how far a model is from the best, but why.
#
# Next: 07, where the trained model writes.
