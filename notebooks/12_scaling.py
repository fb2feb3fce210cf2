# %% [markdown]
# # 12 Scaling up
#
# **What you will build**: everything around a model that grows: its memory and time worked out
# with a pencil, its arrays spread over eight devices, many runs in one program, and a block of your
# own. You need Python and arrays; no machine learning. 35 minutes.
#
# You have no eight accelerators at hand? JAX pretends: the first cell makes eight devices of one
# processor. They are not faster, but all that is said here holds on real ones.

# %%
import os

# Before JAX is imported, which reads them once.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=600"  # on a busy machine, they wait
)
os.environ["NPROC"] = "16"  # threads: two for each device, so that none waits for another's

import math
import re
import tempfile
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

# %%
jax.config.update("jax_cpu_enable_async_dispatch", False)  # one program at a time on few cores

import jaxgpt
from course import check, figures, same
from course.exercises.scaling import suspect
from course.model import trained
from jaxgpt.data.batches import IGNORE
from jaxgpt.data.stories import tell_story
from jaxgpt.training.compiled_step import make_step
from jaxgpt.training.mesh import batch_sharding, make_mesh, state_shardings
from jaxgpt.training.plan import device_bytes
from jaxgpt.training.profile import read_trace

xl, tiny = jaxgpt.get_preset("gpt2-xl"), jaxgpt.get_preset("tiny")
print(jax.device_count(), "devices")
for name in ("gpt2", "gpt2-xl"):
    count = jaxgpt.count_parameters(jaxgpt.get_preset(name).model)
    print(f"{name}: {count / 1e6:,.0f} million parameters")

# %% [markdown]
# ## The path
#
# The path of a text stays what it was. What grows are the blocks: GPT-2 XL has 48 of them.

# %%
shape = xl.model
D, L, V, T = shape.embed_dim, shape.num_layers, shape.vocab_size, shape.context_length
figures.path_strip(
    "block",
    ["10 billion tokens", f"{T:,} at once", f"{D:,} numbers"]
    + [f"{count} {what}" for count, what in ((shape.num_heads, "heads"), (L, "of them"))]
    + [f"{V:,} numbers"]
    + ["the likeliest", "one word more"],
)

# %% [markdown]
# ## Memory before a run
#
# **The idea in a breath.** A run that does not fit ends in its first second, after an hour in the
# queue. All that it will hold can be counted before: parameters, what the **optimizer** remembers,
# gradients, and what the forward pass keeps for the backward pass.
#
# The optimizer here is **Adam** (notebook 06). Beside each parameter it keeps two numbers: a
# running mean of its gradient, and one of its gradient squared. Each is a float32, of 4 bytes.
#
# **Predict** (exercise 12.1, 2 minutes, difficulty 1): GPT-2's smallest model has 124 million
# parameters. How many GB do both running means take together? A GB is a billion bytes.

# %%
answer = ...

# %%
check("12.1", answer)

# %% [markdown]
# Now XL with a pencil. A block has 12 D² weights, and 13 D biases and norms. There are L blocks, a
# token table of V rows, T positions and the last norm, each row D wide. A gradient is as large as
# the parameters; here there are two, the sum so far and what is added to it. Products are computed
# in **bfloat16**, numbers of 2 bytes, and so there is a short copy of the parameters.

# %%
N = V * D + T * D + L * (12 * D**2 + 13 * D) + 2 * D
assert jaxgpt.count_parameters(shape) == N
plan = jaxgpt.make_plan(xl)
same(4 * N, sum(plan.parameter_bytes.values()))
assert abs(plan.optimizer - 2 * 4 * N) < 100  # and the number of the step
pencil = {"parameters": 4 * N, "Adam": 8 * N, "gradients, old and new": 8 * N, "bfloat16": 2 * N}
tokens = plan.micro_batch * T
comes_in, given = 4 * D, 2 * (D + 3 * D + 4 * D)  # what a layer is given stays float32
pencil["activations"] = tokens * L * (comes_in + given)
assert [*pencil.values()][2:] == [plan.gradients, plan.cast, plan.kept]
for name, size in pencil.items():
    print(f"{name:>24} {size / 1e9:6.2f} GB")
print(f"{'peak, by make_plan':>24} {plan.peak / 1e9:6.2f} GB, of {N:,} parameters")

# %% [markdown]
# The **activations** are what a layer hands to the next, kept because the backward pass needs it
# again. They grow with the batch, and so the batch is cut into **micro-batches**, whose gradients
# are added up. Or they are not kept but computed again: **remat**, less memory for more time.

# %% [markdown]
# ## Arrays over devices
#
# **The idea in a breath.** An array may lie in pieces on several devices, and still be one array to
# the program. A **mesh** arranges the devices in a grid whose axes have names. A **sharding** says
# which axis of an array is cut along which axis of the mesh. Along the other axes of the mesh, each
# device has a copy.

# %%
grid = make_mesh(replace(tiny, fsdp=4))
print(dict(grid.shape))
array = jnp.arange(16 * 8.0).reshape(16, 8)
for spec in (PartitionSpec(("data", "fsdp")), PartitionSpec(None, "fsdp"), PartitionSpec()):
    cut = jax.device_put(array, NamedSharding(grid, spec))
    print(f"{spec!s:>36}: a device has {cut.addressable_shards[0].data.shape}")
    same(cut @ cut.T, array @ array.T)


# %%
def tiles(axes, lengths, spec, title, names):
    """Draw an array of two axes as its pieces, each with the devices that have it."""
    where = {}
    for device, index in NamedSharding(grid, spec).devices_indices_map(lengths).items():
        edges = [piece.indices(length)[:2] for piece, length in zip(index, lengths, strict=True)]
        where.setdefault(tuple(edges), []).append(str(device.id))
    for number, (((top, bottom), (left, right)), devices) in enumerate(where.items()):
        shade = figures.QUIET if number % 2 else figures.CARD
        corners = [left, right, right, left], [top, top, bottom, bottom]
        axes.fill(*corners, facecolor=shade, edgecolor=figures.INK, lw=1.5, clip_on=False)
        label = f"device{'s' * (len(devices) > 1)} {', '.join(devices)}"
        axes.text((left + right) / 2, (top + bottom) / 2, label, ha="center", va="center")
    axes.set(xlim=(0, lengths[1]), ylim=(lengths[0], 0), xlabel=names[1], ylabel=names[0])
    axes.set(xticks=range(0, lengths[1] + 1, 4), yticks=range(0, lengths[0] + 1, 4))
    axes.set_title(title, fontsize=11)


# %%
figure, panels = figures.new(11, 3.8, columns=3)
rows = PartitionSpec(("data", "fsdp"))
tiles(panels[0], (16, 8), rows, "a batch: rows over all", ("row", "token"))
tiles(panels[1], (16, 8), PartitionSpec("fsdp"), "weights: over fsdp", ("input", "output"))
tiles(panels[2], (16, 8), PartitionSpec(), "biases: copied", ("layer", "number"))
figures.show(
    figure,
    "Three arrays of 16 by 8 on a mesh of 2 by 4 devices: a batch in eight pieces, one for each "
    "device; weights in four pieces, each on two devices; and biases that all eight have whole.",
)

# %% [markdown]
# ## Data parallel: a batch over devices
#
# **The idea in a breath.** Each device has the whole model and a part of the batch. It computes the
# gradient of its part; the sum over devices, an **all-reduce**, is the gradient of the whole.
#
# The smallest case: a mean of 8 numbers on 4 devices. Each adds up its own, and divides by 8.

# %%
numbers = jnp.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0])
shares = [part.sum() / 8 for part in jnp.split(numbers, 4)]
print("shares", [float(share) for share in shares])
same(sum(shares), numbers.mean())

# %% [markdown]
# Yours to build (exercise 12.2, 10 minutes, difficulty 2): the loss is the mean over all rows of
# `(x @ w - y)²`, with `x` (rows, D), `y` (rows) and `w` (D). Device 0 has the first rows, device 1
# the next, each equally many. Give what each adds to the gradient of `w`, as (devices, D).

# %%
answer = ...  # def shares_of(x, y, w, devices): ...  and then: answer = shares_of

# %%
check("12.2", answer)

# %% [markdown]
# JAX does this by itself. A program is written for one device; where its inputs are sharded, the
# compiler divides it, and puts in the all-reduce.

# %%
model = replace(tiny.model, vocab_size=256, context_length=32, tie_head=False)
config = replace(tiny, model=model, batch_size=16, steps=20)
text = "".join(tell_story(index, seed=0).text for index in range(40))
ids = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
windows = jaxgpt.SlidingWindows(ids, model.context_length)
params = jaxgpt.init_params(model, jax.random.key(0))
loss_fn = jaxgpt.next_token_loss(model)


def mean_loss(params, batch):
    nats, count = loss_fn(params, batch, None)
    return nats / count


mesh = make_mesh(config)
batch = tuple(windows.batch(0, 16, seed=0))
everywhere = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
cut = jax.device_put(batch, batch_sharding(mesh))
print("a device has", cut[0].addressable_shards[0].data.shape, "of", cut[0].shape)

# %%
gradient = jax.jit(jax.grad(mean_loss))
divided = gradient.lower(everywhere, cut).compile()
flat = jax.flatten_util.ravel_pytree
same(flat(divided(everywhere, cut))[0], flat(gradient(params, batch))[0])


def collectives(program):
    """How often a compiled program has devices talk to each other, and how."""
    found = re.findall(r" (all-reduce|all-gather|reduce-scatter|all-to-all)\(", program.as_text())
    return dict(Counter(found))


print(collectives(divided))

# %% [markdown]
# ## FSDP: parameters over devices
#
# **The idea in a breath.** With data parallel, each of 8 devices keeps the same parameters and the
# same running means: seven copies too many. So each keeps an eighth, and borrows the rest for the
# moment in which a layer needs it, by an **all-gather**. That is FSDP, *fully sharded data
# parallel*.

# %%
shared = replace(config, fsdp=8)
mesh = make_mesh(shared)
optimizer = jaxgpt.make_optimizer(config.optimizer, config.steps)
state = jaxgpt.init_state(params, optimizer)
spread = jax.device_put(state, state_shardings(state, mesh))
on_first = [leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(spread)]
same(sum(on_first), device_bytes(state, 8))
print(f"a device holds {sum(on_first):,} of {device_bytes(state, 1):,} bytes")

# %%
alone = jax.jit(
    partial(jaxgpt.train_step, key=jax.random.key(0), loss_fn=loss_fn, optimizer=optimizer)
)
step = make_step(shared, mesh)
place = partial(jax.device_put, device=batch_sharding(mesh))
program = step.lower(spread, place(batch), np.int32(0)).compile()
step = replace(step, program=program)
for number in range(5):
    batch = tuple(windows.batch(16 * number, 16, seed=0))
    state, one = alone(state, batch, np.int32(number))
    spread, eight = step(spread, place(batch), np.int32(number))
    print(f"step {number + 1} loss {one['loss']:.4f} {eight['loss']:.4f}")
same(flat(jax.device_get(spread.params))[0], flat(state.params)[0], atol=1.5e-5)
print(collectives(program))

# %% [markdown]
# One device and eight agree but for rounding: sums run in another order. Adam divides by the root
# of a small number, so the bound is wider than before.
#
# What does it save? Here is XL on devices of 80 GB, five ways.

# %%
ways = {
    "1, batch in\n32 cuts": (replace(xl, gradient_accumulation=32), 1),
    "1, batch in\n16 cuts": (replace(xl, gradient_accumulation=16), 1),
    "1, 16 cuts\nand remat": (replace(xl, gradient_accumulation=16, remat=True), 1),
    "8, each a\ncopy": (xl, 8),
    "8, fsdp": (replace(xl, fsdp=8), 8),
}
plans = {name: jaxgpt.make_plan(run, devices) for name, (run, devices) in ways.items()}
parts = {
    "parameters": [sum(plan.parameter_bytes.values()) for plan in plans.values()],
    "Adam's means": [plan.optimizer for plan in plans.values()],
    "gradients and bfloat16 copy": [plan.gradients + plan.cast for plan in plans.values()],
    "activations": [plan.kept + plan.working + plan.batch for plan in plans.values()],
}
for name, plan in plans.items():
    fits = "fits" if plan.peak <= 80e9 else "does not fit"
    print(f"{name.replace(chr(10), ' '):>20} {plan.peak / 1e9:6.1f} GB a device: {fits}")

# %%
figure, axes = figures.new(9, 4.2)
bottom, looks = np.zeros(len(ways)), zip("/ .x", [*"wwww"], strict=True)
shades = [figures.SECOND, figures.QUIET, figures.CARD, figures.LIT]
for (name, sizes), color, (hatch, _) in zip(parts.items(), shades, looks, strict=True):
    heights = np.array(sizes) / 1e9
    axes.bar(
        list(ways), heights, 0.6, bottom, color=color, edgecolor=figures.INK, label=name,
        hatch=hatch.strip() * 2,
    )  # fmt: skip
    bottom += heights
axes.axhline(80, color=figures.INK, ls="--")
axes.text(4.45, 81.5, "80 GB", ha="right")
axes.set(ylabel="memory of a device (GB)")
axes.legend(frameon=False, bbox_to_anchor=(1, 0.9), loc="upper left")
figures.show(
    figure,
    "Stacked bars of a device's memory for GPT-2 XL: on one device it fits, with half as many cuts "
    "of the batch it does not, with remat again; eight copies save activations alone, FSDP all.",
)

# %% [markdown]
# ## Time before a run: the roofline
#
# **The idea in a breath.** A device does two things: it computes, and it fetches numbers from its
# memory. The slower of the two decides. What counts is how much is computed with each byte that is
# fetched: the **arithmetic intensity**. The **ridge** is the intensity at which both take equally
# long. Below it, memory decides; above it, arithmetic.
#
# A figure from data sheets: an H100 computes 989 TFLOP a second in bfloat16, a trillion operations
# each, and fetches 3.35 TB.

# %%
PEAK, FETCH = 989e12, 3.35e12  # operations and bytes a second, as the maker states
kinds = {  # operations and bytes of one: weights of a block's feed-forward, D by 4 D
    "product, in training": (2 * 16384 * D * 4 * D, 2 * (16384 * 5 * D + 4 * D * D)),
    "product, 64 texts being written": (2 * 64 * D * 4 * D, 2 * (64 * 5 * D + 4 * D * D)),
    "product, one text being written": (2 * D * 4 * D, 2 * (5 * D + 4 * D * D)),
    "layer norm": (8, 4),  # of one number
    "Adam": (14, 28),  # of one parameter
}
intensity = {name: work / size for name, (work, size) in kinds.items()}
for name, at in intensity.items():
    side = "arithmetic" if at > PEAK / FETCH else "memory"
    share = min(1, at * FETCH / PEAK)
    print(f"{name:>32} {at:7.1f} operations a byte: {side}, at most {share:.1%} of the peak")
print(f"ridge: {PEAK / FETCH:.0f} operations a byte")

# %%
figure, axes = figures.new(9, 4.2)
reach = np.geomspace(0.02, 1e4, 200)
axes.loglog(reach, np.minimum(PEAK, reach * FETCH) / 1e12, color=figures.INK, lw=2)
axes.axvline(PEAK / FETCH, color=figures.QUIET, ls=":")
axes.text(PEAK / FETCH * 1.1, 0.13, "ridge")
for (name, at), mark in zip(intensity.items(), "os^Dv", strict=True):
    height, lit = min(PEAK, at * FETCH) / 1e12, at > PEAK / FETCH
    axes.plot(at, height, mark, ms=9, color=figures.LIT if lit else figures.SECOND)
    left, up = (450, height * 0.5) if lit else (at * 0.75, height * 1.4)
    axes.text(left, up, name, ha="left" if lit else "right", va="center")
ticks = [0.01, 0.1, 1, 10, 100, 1000, 10000]
axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
axes.set_yticks(ticks[1:-1], [f"{tick:,g}" for tick in ticks[1:-1]])
axes.set(xlabel="operations a byte", ylabel="reachable (TFLOP a second)")
axes.set(xlim=(0.01, 1e4), ylim=(0.1, 3000))
figures.show(
    figure,
    "The roofline of an H100 on logarithmic axes: reachable speed rises with operations a byte up "
    "to the ridge and is level beyond. A training product is on the roof, all else on the slope.",
)

# %% [markdown]
# That is why decoding serves many texts at once: the weights are fetched once for all. Now this
# machine: time one product for its arithmetic, one copy for its memory. The times differ from
# machine to machine, and so only the sides are printed.


# %%
def seconds(function, *arrays):
    """The least of five times, after one that compiles."""
    times = []
    for _ in range(6):
        began = time.perf_counter()
        jax.block_until_ready(function(*arrays))
        times.append(time.perf_counter() - began)
    return min(times[1:])


square, long = jnp.ones((1024, 1024)), jnp.ones(1 << 24)
peak = 2 * 1024**3 / seconds(jax.jit(jnp.matmul), square, square)
fetch = 2 * long.nbytes / seconds(jax.jit(lambda x: x + 1), long)
for name, at in {
    "product of 1024 x 1024": 1024 / 6,
    "one row times it": 0.5,
    "x + 1": 1 / 8,
}.items():
    print(f"{name:>24}: {'arithmetic' if at > peak / fetch else 'memory'} decides")

# %% [markdown]
# And the whole run? A step costs 6 operations for each parameter and token, and attention's own.
# Real runs reach about half of the peak, or less.

# %%
plan = plans["8, fsdp"]
print(f"6 N T B is {6 * N * T * xl.batch_size / plan.flops_per_step:.0%} of a step's operations")
hours = plan.flops_per_step * xl.steps / (8 * 0.4 * PEAK) / 3600
print(f"{xl.steps * xl.batch_size * T / 1e9:.1f} billion tokens on 8 devices: {hours:.1f} hours")

# %% [markdown]
# ## Where a step's time goes: a profile
#
# **The idea in a breath.** Before making a part faster, look how much of the whole it is. A
# **trace** notes when each instruction began and ended; a **profile** adds them up by the stages of
# the code. `jaxgpt`'s `RunOptions(profile=5)` traces five steps. This table was printed for
# `small`, on two busy cores:

# %%
RECORDED = """325.9 ms a step        forward  backward   share
embedding                 0.43      1.21    0.5%
attention                33.14     62.67   29.4%
feed_forward             26.13     43.04   21.2%
norm                      0.32      1.59    0.6%
head                     55.16      0.00   16.9%
loss                      6.25      0.00    1.9%
optimizer                 2.05      0.00    0.6%
other                    27.94      3.40    9.6%
no instruction           62.61             19.2%"""
lines = [line.rsplit(maxsplit=3) for line in RECORDED.splitlines()[1:-1]]
profile = {name: (float(forward), float(back)) for name, forward, back, _ in lines}
whole = 325.9
for name in ("attention", "feed_forward", "optimizer"):
    part = sum(profile[name])
    print(f"{name} twice as fast: the step {whole / (whole - part / 2):.2f} times as fast")

# %%
figure, axes = figures.new(9, 3.6)
names, (forward, backward) = list(profile), np.array(list(profile.values())).T
axes.barh(names, forward, color=figures.SECOND, edgecolor=figures.INK, label="forward")
axes.barh(
    names, backward, left=forward, color=figures.CARD, edgecolor=figures.INK, hatch="//",
    label="backward",
)  # fmt: skip
axes.invert_yaxis()
axes.set(xlabel="time of a step (ms)")
axes.legend(frameon=False, loc="lower right")
figures.show(
    figure,
    "A profile as bars, by stage: attention and feed-forward take the most, and longer backward "
    "than forward; the head has no backward part; optimizer, norm and embedding are small.",
)

# %% [markdown]
# What has no stage, "no instruction", is left out. In attention and feed-forward, backward takes
# nearly twice as long as forward, for it has two products for each one: a gradient
# of the input and one of the weight. The head has none: its gradient is made beside its loss. Here
# is a trace of the step of this notebook; only names are printed, as times vary.

# %%
with tempfile.TemporaryDirectory() as folder:
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    jax.profiler.start_trace(folder, profiler_options=options)
    for number in range(5, 8):
        with jax.profiler.StepTraceAnnotation("step", step_num=number):
            spread, _ = jax.block_until_ready(step(spread, place(batch), np.int32(number)))
    jax.profiler.stop_trace()
    table = read_trace(Path(folder), program.as_text())
print("stages:", ", ".join(line.split()[0] for line in table.splitlines()[1:-1]))

# %% [markdown]
# ## Many runs in one program: vmap
#
# **The idea in a breath.** Runs that differ in a number are one program on a longer array. `vmap`
# takes a function of one thing and gives the function of many: each array gets one more axis, its
# **lanes**. Nothing in the function changes.
#
# The smallest run: `w` is to become 3, by steps against the slope of `(w - 3)²`.


# %%
def descend(rate):
    """The losses of 12 steps from w = 0."""
    w, losses = 0.0, []
    for _ in range(12):
        losses.append((w - 3) ** 2)
        w = w - rate * 2 * (w - 3)
    return jnp.stack([*losses, (w - 3) ** 2])


rates = jnp.array([0.01, 0.1, 0.5, 0.9, 1.1])
together = jax.vmap(descend)(rates)
same(together, jnp.stack([descend(rate) for rate in rates]))
for rate, losses in zip(rates, together, strict=True):
    print(f"rate {rate:.2f}: loss {losses[0]:.2f} -> {losses[-1]:.2g}")

# %% [markdown]
# Too small is slow; too large leaps over the goal, further each time. A model's best rate has to be
# tried out: a **sweep**. `jaxgpt.sweep` does it with whole runs. Chance plays a part too, and so
# each rate gets four **seeds**, of which each draws other first weights and another order.

# %%
data = replace(tiny.data, stories_bytes=60_000)
optimizer = replace(tiny.optimizer, warmup_steps=10)
run = replace(
    tiny, model=replace(model, vocab_size=0), data=data, batch_size=8, steps=150,
    optimizer=optimizer, evaluation_batches=8,
)  # fmt: skip
RATES, SEEDS = (1e-3, 3e-3, 1e-2, 3e-2), (0, 1, 2, 3)
swept = jaxgpt.sweep(run, seeds=SEEDS, learning_rates=RATES, mode="vmap")
turns = jaxgpt.sweep(run, seeds=SEEDS[:1], learning_rates=RATES[::2], mode="loop")
lanes = {(lane.learning_rate, lane.seed): lane for lane in swept.lanes}
for lane in turns.lanes:
    one, other = lanes[lane.learning_rate, lane.seed].losses, lane.losses
    same(one[:20], other[:20], atol=1e-4)
    print(
        f"rate {lane.learning_rate}: {max(map(abs, np.subtract(one, other))):.0e} after all steps"
    )

# %%
faster = np.mean([lane.seconds for lane in turns.lanes]) / swept.lanes[0].seconds
words = "one program" if faster > 2 else "one after the other" if faster < 0.5 else "neither"
print("more than twice as fast here:", words)

# %% [markdown]
# A lane is the run it would be alone, but for rounding. Which way is faster depends on the machine.
# By turns, each batch of 8 rows is cut over 8 devices, which wait for each other at every step; the
# lanes lie side by side, and none waits. On one fast device that a single run keeps busy, lanes
# gain nothing. So `sweep` can be left to time both (`mode="auto"`).
#
# What does the sweep say? Look at all seeds, not at the best of them.

# %%
final = np.array([lane.validation_loss for lane in swept.lanes]).reshape(4, 4)
for rate, row in zip(RATES, final, strict=True):
    print(f"rate {rate:<6} mean {row.mean():.3f}, least {row.min():.3f}, most {row.max():.3f}")
best = RATES[int(final.mean(axis=1).argmin())]
print("least mean:", best)

# %%
figure, axes = figures.new(8, 3.8)
for seed, mark in zip(SEEDS, "os^D", strict=True):
    axes.plot(
        RATES, final[:, seed], mark, color=figures.QUIET, mec=figures.INK, label=f"seed {seed}"
    )
axes.plot(RATES, final.mean(axis=1), "-", color=figures.SECOND, lw=2, label="mean", zorder=1)
axes.axvline(best, color=figures.LIT, ls="--", label="least mean")
axes.set_xscale("log")
axes.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
axes.minorticks_off()
axes.set(xlabel="peak learning rate (per step)", ylabel="validation loss (nats a byte)")
axes.legend(frameon=False, bbox_to_anchor=(1, 1), loc="upper left")
figures.show(
    figure,
    "Validation loss after 150 steps against four learning rates, a point for each of four seeds "
    "and a line of means: a valley, whose lowest mean is marked, and around each mean its seeds.",
)

# %% [markdown]
# Honest rules: a difference smaller than the spread of seeds is none, so neighbours may be alike; a
# best rate at the edge of the grid is not yet found; and what is compared gets the same sweep.
#
# ## A modern family beside GPT-2
#
# **The idea in a breath.** Newer models, such as Llama, keep GPT-2's plan and change four parts of
# the block. `with_block` takes a block of one's own, and all of the package then trains, shards and
# saves it.
#
# - **RMS norm**: only the size of a vector is made 1; no mean is taken away, nothing is added.
# - **Rotary positions**: no vectors of positions; queries and keys are turned by their place.
# - **SwiGLU**: a gate, which multiplies what goes up, in place of GELU.
# - no biases.


# %%
def rms_norm(x, *, scale, epsilon):
    wide = x.astype(jnp.float32)
    size = jnp.sqrt(jnp.square(wide).mean(-1, keepdims=True) + epsilon)
    return (wide / size * scale).astype(x.dtype)


x = jax.random.normal(jax.random.key(0), (5, 32))
centred = x - x.mean(-1, keepdims=True)
ones, zeros = jnp.ones(32), jnp.zeros(32)
same(
    rms_norm(centred, scale=ones, epsilon=1e-5),
    jaxgpt.layer_norm(x, scale=ones, bias=zeros, epsilon=1e-5),
)

# %% [markdown]
# Rotary positions: a vector's two halves are pairs of numbers, each a point on a plane. At place t,
# pair i is turned by t times its own speed. A dot product of two turned points depends on the
# difference of their angles alone, and so on how far apart the words are, not where they stand.


# %%
def rotate(x):
    """Turn the pairs of x (..., T, K) by their place."""
    half = x.shape[-1] // 2
    speeds = 10_000.0 ** (-jnp.arange(half) / half)
    angles = jnp.arange(x.shape[-2])[:, None] * speeds
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


query, key = jax.random.normal(jax.random.key(1), (2, 16))
scores = rotate(jnp.tile(query, (12, 1))) @ rotate(jnp.tile(key, (12, 1))).T
print("3 apart:", [f"{float(scores[t, t - 3]):.4f}" for t in (3, 7, 11)])
same(scores[1:, 1:], scores[:-1, :-1], atol=1e-5)


# %%
def rotary_attention(x, *, qkv, out, num_heads, **_):
    queries, keys, values = jaxgpt.split_heads(jaxgpt.linear(x, **qkv), num_heads)
    contexts = jaxgpt.attend_causally(rotate(queries), rotate(keys), values)
    return jaxgpt.linear(jaxgpt.join_heads(contexts), **out), None


def swiglu(x, *, gate, up, down, **_):
    opened = jax.nn.silu(jaxgpt.linear(x, **gate)) * jaxgpt.linear(x, **up)
    return jaxgpt.linear(opened, **down)


def modern(x, **arguments):
    parts = {"norm": rms_norm, "attend": rotary_attention, "feed": swiglu}
    return jaxgpt.block(x, **arguments, **parts)


names = ("norm1.scale", "attn.qkv.weight", "attn.out.weight")
names += ("norm2.scale", "mlp.up.weight", "mlp.down.weight")
kept = [row for row in jaxgpt.BLOCK_LEAVES if row.path.removeprefix("blocks.") in names]
added = jaxgpt.Leaf("blocks.mlp.gate.weight", "D F", "normal", decays=True, sharded="D")
MODERN = jaxgpt.Block(modern, leaves=(*kept, added), name="modern")
print(*(row.path.removeprefix("blocks.") for row in MODERN.leaves[:4]))
print(*(row.path.removeprefix("blocks.") for row in MODERN.leaves[4:]))

# %% [markdown]
# Three matrices in place of two: to be fair, F is made smaller, so that both have about as many
# parameters. Then both get the same sweep. The last norm, outside the blocks, stays GPT-2's.

# %%
lean = replace(run.model, positions="none", qkv_bias=False, hidden_dim=88)
family = {"GPT-2": run, "modern": replace(run, model=jaxgpt.with_block(lean, MODERN))}
sweeps = {"GPT-2": swept}
sweeps["modern"] = jaxgpt.sweep(family["modern"], seeds=SEEDS, learning_rates=RATES, mode="vmap")
chosen = {}
for name, result in sweeps.items():
    size = jaxgpt.count_parameters(replace(family[name].model, vocab_size=256))
    ends = np.array([lane.validation_loss for lane in result.lanes]).reshape(4, 4)
    at = int(ends.mean(axis=1).argmin())
    chosen[name] = np.array([lane.losses for lane in result.lanes[4 * at : 4 * at + 4]])
    spread = f"{ends[at].min():.3f} to {ends[at].max():.3f}, mean {ends[at].mean():.3f}"
    print(f"{name:>7} {size:,} parameters, best rate {RATES[at]}, validation loss {spread}")

# %%
figure, axes = figures.new(8, 3.8)
steps = np.arange(1, run.steps + 1)
for (name, losses), style in zip(chosen.items(), ("-", "--"), strict=True):
    color = figures.SECOND if style == "-" else figures.LIT
    axes.fill_between(steps, losses.min(axis=0), losses.max(axis=0), color=color, alpha=0.2, lw=0)
    axes.plot(steps, losses.mean(axis=0), style, color=color, label=f"{name}, mean of four seeds")
axes.set(xlabel="step", ylabel="training loss (nats a byte)", xlim=(1, run.steps))
axes.legend(frameon=False)
figures.show(
    figure,
    "Training loss over 150 steps of GPT-2's block and the modern one, each at its best rate: the "
    "mean of four seeds as a line, their range as a band.",
)

# %% [markdown]
# By the first rule: do the two spreads overlap? Then no difference is shown. And 150 steps of a toy
# say nothing of large models. But the way is the one by which such parts are chosen.
#
# ## The loss around a trained model
#
# **The idea in a breath.** A model is a point in a space of a million axes. Choose two random
# directions, walk along both, and compute the loss at each point of a grid: a map. All points are
# one program again.
#
# A direction must suit the weights: a step of 1 means much to small weights and little to large
# ones. So each column of a direction is made as long as the model's own (**filter-normalised**,
# Li et al.). The text is stories that the model never saw; what they hold in bits is known, and on
# the average of all stories no model can be below it: the **floor**.

# %%
small = trained()
encode, before = small.tokenizer.encode, tell_story(39_999, seed=0).text
inputs, targets, floor = [], [], 0.0
for index in range(40_000, 40_004):
    story = tell_story(index, seed=0)
    first = len(encode(before.strip())) + 2  # two ends of line are two tokens, within a text
    last = len(encode(before + story.text.strip())) + 2
    ids = np.array(encode(before + story.text + "One")[first - 50 : last])
    assert small.tokenizer.decode(ids[50:].tolist()) == story.text
    ids = np.pad(ids, (0, 193 - len(ids)), constant_values=IGNORE)
    inputs.append(np.maximum(ids[:-1], 0))
    targets.append(np.where(np.arange(192) < 49, IGNORE, ids[1:]))  # of the story alone
    before, floor = story.text, floor + story.bits * math.log(2)
batch = jnp.array(inputs), jnp.array(targets)
count = int((batch[1] != IGNORE).sum())
floor /= count
print(f"{count} tokens; floor {floor:.4f} nats a token")


# %%
def direction(key, params):
    """A random direction, whose columns are as long as those of the weights; of vectors, 0."""

    def like(path, leaf):
        axis = -1 if "embed" in str(path[0]) else -2
        if axis == -2 and "weight" not in str(path[-1]):
            return jnp.zeros_like(leaf)
        drawn = jax.random.normal(jax.random.fold_in(key, leaf.size), leaf.shape)
        size = jnp.linalg.norm(leaf, axis=axis, keepdims=True)
        return drawn / jnp.linalg.norm(drawn, axis=axis, keepdims=True) * size

    return jax.tree.map_with_path(like, params)


loss_fn = jaxgpt.next_token_loss(small.config)


@jax.jit
def surface(params, one, two, points):
    def loss(point):
        moved = jax.tree.map(lambda w, a, b: w + point[0] * a + point[1] * b, params, one, two)
        nats, count = loss_fn(moved, batch, None)
        return nats / count

    return jax.lax.map(loss, points)


# %%
one, two = (direction(jax.random.key(seed), small.params) for seed in (0, 1))
line = np.linspace(-1, 1, 21)
points = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
heights = np.asarray(surface(small.params, one, two, points)).reshape(21, 21)
centre = heights[10, 10]
print(
    f"{heights.size} points; at the centre {centre:.4f}, {centre / floor - 1:.1%} above the floor"
)
least = np.unravel_index(heights.argmin(), heights.shape)
assert max(abs(place - 10) for place in least) <= 1  # the model, or a neighbour of it
assert 0 < centre / floor - 1 < 0.15

# %%
figure, (map_, cut) = figures.new(11, 4.4, columns=2)
levels = [0.8, 1, 1.5, 2, 3, 4, 5, 6, 7, 8]
lines = map_.contour(line, line, heights, levels, colors=figures.INK, linewidths=0.9)
map_.contourf(line, line, heights, levels, cmap="Blues", extend="both", alpha=0.7)
map_.clabel(lines, fontsize=8)
map_.plot(0, 0, "o", color=figures.LIT, ms=8)
map_.set(xlabel="along the first direction (lengths of the weights)", ylabel="along the second")
map_.set(xticks=line[::5], yticks=line[::5], aspect="equal")
cut.plot(line, heights[:, 10], "-", color=figures.SECOND, label="along the first")
cut.plot(line, heights[10], "--", color=figures.LIT, label="along the second")
cut.axhline(floor, color=figures.INK, ls=":", label="floor: the text's own entropy")
cut.set(xlabel="along a direction (lengths of the weights)", ylabel="loss (nats a token)")
cut.set_ylim(0, None)
cut.legend(frameon=False, loc="upper center")
figures.show(
    figure,
    "Left, contours of the loss around the trained model over two random directions, a bowl with "
    "the model at its bottom; right, a section along each: both are lowest in the middle, just "
    "above the floor's line.",
)

# %% [markdown]
# The bowl is flat at its bottom: weights that are wrong by a tenth of their length cost little.
#
# ## Find the bug
#
# `suspect(losses, counted, devices)` is a mean loss over devices: `losses` (rows, T), `counted`
# says which targets count (notebook 02's `IGNORE` are left out). On one device it is right, and on
# four where all count. In the second line below it is not. Does it lose `"rows"`, mind the
# `"order"`, count what is to be `"ignored"`, forget to divide the `"sum"`, or take a wrong
# `"mean"`? (Exercise 12.3, 6 minutes, difficulty 2.) Try it on arrays of your own.

# %%
losses = np.arange(32.0).reshape(8, 4)
counted = np.ones((8, 4), bool)
print("all count:   ", suspect(losses, counted, 4), losses.mean())
counted[:2, 1:] = False  # the first device has two short texts
print("two are short:", suspect(losses, counted, 4), losses[counted].mean())
answer = ...

# %%
check("12.3", answer)

# %% [markdown]
# ## In the library
#
# Devices are in `jaxgpt/training/mesh.py`, plans in `plan.py`, profiles in `profile.py`, and sweeps
# in `sweep.py` and `lanes.py` beside them. `tests/training/test_mesh.py` shows that eight devices
# give what one gives, `test_plan.py` that XLA's own figure is near the plan, `test_sweep.py` that a
# lane is a run. Blocks of one's own are in `examples/`.
#
# ## What you know now
#
# - Memory and time are multiplication: 16 bytes a parameter and more, 6 operations a parameter and
#   token; the ridge says which of arithmetic and memory decides.
# - A sharding says which axis lies over which devices; sums, not means, are added over them.
# - Compare with equal sweeps and several seeds, and look at the spread before the mean.
#
# That was the last of the course: from text to a model, and to what comes after.
