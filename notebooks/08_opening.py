# %% [markdown]
# # 08 Opening the model
#
# **What you will build**: the tools that look into a trained model, and the care that they need.
# Where does a part look, what is lost without it, and which part copies a hero's name? You need
# Python, arrays and notebook 04. 30 minutes.

# %%
import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxgpt
from course import check, explorer, figures, same
from course.exercises.opening import induction_score, suspect
from course.model import trained
from jaxgpt.data.batches import IGNORE
from jaxgpt.data.stories import STORIES, tell_story

np.set_printoptions(precision=2, suppress=True)
model = trained()
gpt = jaxgpt.GPT(model.config, model.params)
L, H = model.config.num_layers, model.config.num_heads
HEADS = [f"{layer}.{head}" for layer in range(L) for head in range(H)]
print(f"{L} layers of {H} heads:", *HEADS)

# %% [markdown]
# ## The path
#
# This model was trained on stories from a **grammar**: a list of rules that draws each word at
# random. So we know what no one knows of a book: which words repeat an earlier choice, and how
# well the best guess could do. These stories are new to the model.

# %%
story = tell_story(0, seed=1)
print(story.text.replace(". ", ".\n").strip())
values = ["a new story", f"{len(model.tokenizer.encode(story.text))} ids"]
values += [f"{model.config.embed_dim} wide", f"{len(HEADS)} heads", f"{L} blocks"]
values += [f"{model.config.vocab_size:,} each", "whose name?", "right or not"]
figures.path_strip("attention", values)

# %% [markdown]
# ## Four facts to remember
#
# **The idea in a breath.** A story says a thing early and needs it again later. Stop just before
# it is needed, and ask the model which it is.
#
# - *hero*: the hero's name, the second time it stands there
# - *pet*: the pet's name, likewise
# - *tool*: what was packed, when it helps in the end
# - *place*: the gift, which has to be one that is given at the place of the outing
#
# `STORIES.spans` tells which choice wrote which characters. From that follows the **place** of a
# fact: the number of the token after which the word comes.


# %%
CHOICES = {"hero": "hero", "pet": "friend", "tool": "tool", "place": "gift"}


def read(story):
    """Ids of a story, and for each fact the place before it; None if one is not repeated."""
    text = "\n\n" + story.text.rstrip()
    ids = model.tokenizer.encode(text)
    ends = np.cumsum([len(model.tokenizer.decode([token])) for token in ids])
    places = []
    for fact, choice in CHOICES.items():
        starts = [span.start for span in STORIES.spans(story.facts) if span.choice == choice]
        if len(starts) < 2 and fact != "place":
            return None
        start = starts[0 if fact == "place" else 1] + 2
        places.append(int(np.searchsorted(ends, start - 1)))  # the token that ends before " word"
    return ids, places


told = [tell_story(index, seed=1) for index in range(60)]
cases = [(story, *found) for story in told if (found := read(story))][:32]
tokens = np.zeros((32, max(len(ids) for _, ids, _ in cases)), np.int32)
for row, (_, ids, _) in enumerate(cases):
    tokens[row, : len(ids)] = ids  # what is behind a text changes nothing in it
places = np.array([places for _, _, places in cases])

# %%
story, ids, at = cases[0]
pieces = [model.tokenizer.decode([token]) for token in ids]
for fact, place in zip(CHOICES, at, strict=True):
    print(f"{fact:>6}: ...{''.join(pieces[place - 6 : place + 1])!r} -> {pieces[place + 1]!r}")

# %% [markdown]
# The question is *which* name, not *whether* a name comes. So compare only the words that the
# choice could have drawn: 16 heroes, 8 pets, 32 tools, 24 gifts. How good is a guess that has read
# nothing? As good as always saying the commonest. The grammar knows it: that is **chance**.


# %%
def ids_of(words):
    return [model.tokenizer.encode(" " + word)[0] for word in words]


candidates = np.zeros((4, model.config.vocab_size), bool)
right = np.zeros((32, 4, model.config.vocab_size), bool)
for k, choice in enumerate(CHOICES.values()):
    for urn in STORIES.choices[choice].urns.values():
        candidates[k, ids_of(urn)] = True
    for row, (story, _, _) in enumerate(cases):
        gifts = STORIES.choices["gift"].urns[story.facts["place"]]
        right[row, k, ids_of(gifts if choice == "gift" else [story.facts[choice]])] = True
print("words to choose from:", dict(zip(CHOICES, candidates.sum(1).tolist(), strict=True)))


# %%
def drawn(choice):
    """Probability of each word that a choice of the grammar can draw."""
    rule, odds = STORIES.choices[choice], {}
    for label, chance in (drawn(rule.given) if rule.given else {"": 1.0}).items():
        for word, weight in rule.urns[label].items():
            odds[word] = odds.get(word, 0) + chance * weight / sum(rule.urns[label].values())
    return odds


chance = {
    fact: max(drawn(choice).values()) for fact, choice in (CHOICES | {"place": "place"}).items()
}
print("chance:", {fact: round(share, 3) for fact, share in chance.items()})


# %%
def answers(logits):
    """Share of the right words, and whether the best word is right: (texts, facts) each."""
    logits = jnp.where(candidates, logits[np.arange(32)[:, None], places], -jnp.inf)
    best = jnp.take_along_axis(right, logits.argmax(-1)[..., None], axis=-1)[..., 0]
    return (jax.nn.softmax(logits) * right).sum(-1), best


share, best = answers(gpt(tokens))
for k, fact in enumerate(CHOICES):
    print(f"{fact:>6}: {best[:, k].mean():4.0%} right, by chance {chance[fact]:4.0%}")
assert best[:, 0].mean() >= 0.7 and best[:, 3].mean() >= 0.9
assert best[:, 1].mean() <= 0.4

# %% [markdown]
# The model knows its hero, and what is given where. Of the tool it has an idea. The pet's name it
# does not know better than chance. Three kinds of knowing: let us see how.
#
# ## Where a head looks
#
# **The idea in a breath.** Attention weights say how much each token takes from each other
# (notebook 04). `activations` gives what is computed on the way by name: `blocks.0.attn.weights`
# are the weights of layer 0, (B, H, T, T). They are what you think they are:

# %%
first = jaxgpt.activations(gpt, tokens[:1], "blocks.*.attn.*")
queries, keys = first["blocks.0.attn.q"], first["blocks.0.attn.k"]
by_hand = jnp.where(
    jaxgpt.causal_mask(tokens.shape[1]), queries @ keys.mT / queries.shape[-1] ** 0.5, -jnp.inf
)
same(jax.nn.softmax(by_hand), first["blocks.0.attn.weights"])

# %% [markdown]
# Take the place before the hero's second name, in the first story. Each head's row of weights, one
# number for each token so far:


# %%
def strip(rows, names, ylabel, xlabel, label):
    """A figure of rows of numbers over the tokens up to the second name, and its axes."""
    figure, axes = figures.new(11, 1.4 + 0.36 * len(names))
    picture = axes.imshow(rows, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(len(names)), names)
    shown = [piece.strip() or "¶" for piece in pieces[: place + 1]]
    axes.set_xticks(range(place + 1), shown, rotation=90, fontsize=8.5)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    for level, row in enumerate(rows):
        most = int(row.argmax())
        color = "white" if row[most] > 0.5 else figures.INK
        axes.text(most, level, f"{row[most]:.1f}", ha="center", va="center", color=color)
    figure.colorbar(picture, ax=axes, label=label)
    return figure


place = at[0]
rows = [first[f"blocks.{layer}.attn.weights"][0, :, place, : place + 1] for layer in range(L)]
figures.show(
    strip(np.concatenate(rows), HEADS, "head", "token that is looked at", "weight (share of 1)"),
    "Attention of each head at the place before the hero's second name, over all tokens so far; "
    "the largest weight of each head is written in. One head of layer 0 looks at the name.",
)

# %% [markdown]
# A head looks at the name. Others look as hard at other words. Do they *do* anything? A look is a
# correlation. To know a cause, take it away.
#
# ## Knocking heads out
#
# **The idea in a breath.** A head hands over a context vector. Make it 0, run the rest as ever, and
# see which answers get worse: a **knock-out**.
#
# By hand: the output matrix mixes the contexts of all heads, and a head's share of it are K rows.
# Set them to 0. `intervene` does it without touching parameters: it runs the model with some
# activations changed, and `keep_heads` says how.

# %%
K = gpt.config.embed_dim // H
blocks = model.params["blocks"]
weight = blocks["attn"]["out"]["weight"].at[0, :K].set(0)  # layer 0, the rows of head 0
attn = blocks["attn"] | {"out": blocks["attn"]["out"] | {"weight": weight}}
without = jaxgpt.GPT(model.config, model.params | {"blocks": blocks | {"attn": attn}})
kept = np.ones((L, H), bool)
kept[0, 0] = False
same(
    without(tokens[:1]),
    jaxgpt.intervene(gpt, tokens[:1], jaxgpt.keep_heads(model.config, kept)),
    atol=1e-4,
)

# %% [markdown]
# `kept` is an array like any other, so one compiled program runs *every* choice of heads: each
# of 6 is on or off, 2 to the 6 choices. Each answers all four facts of 32 stories.


# %%
def ask(params, kept):
    changed = jaxgpt.intervene(
        jaxgpt.GPT(model.config, params), tokens, jaxgpt.keep_heads(model.config, kept)
    )
    share, best = answers(changed)
    return share.mean(0), best.mean(0)


@jax.jit
def ask_all(params, choices):
    return jax.lax.map(lambda kept: ask(params, kept), choices)


choices = np.array(list(itertools.product([False, True], repeat=len(HEADS))))
share, accuracy = map(np.asarray, ask_all(model.params, choices.reshape(-1, L, H)))
print(len(choices), "choices of heads, of which the first keeps none and the last all")
off = [int(np.flatnonzero(choices.sum(1) - choices[:, k] == 5)[0]) for k in range(len(HEADS))]
print("right without  ", *(f"{fact:>6}" for fact in CHOICES))
for head, number in zip(HEADS, off, strict=True):
    print(f"      head {head}  ", *(f"{part:6.0%}" for part in accuracy[number]))

# %% [markdown]
# Without one head, the hero's name is little better than a guess: "he" and "her" still tell a boy
# from a girl. No head's loss touches the pet.
#
# ## What is each head's share?
#
# **The idea in a breath.** A knock-out can lie. If two heads copy the name, each can do it alone,
# and knocking out one changes nothing; so neither would matter. Let the heads join one after
# another instead, and note what each adds. That depends on the order; so take the mean over all
# orders: the head's **Shapley value**. All values together are exactly what all heads gain.
#
# Two heads, by hand. Alone, a gets 0.6 right and b 0.2; together 0.9; without both, nothing.

# %%
right_with = np.array([[0.0, 0.2], [0.6, 0.9]])  # [a there?, b there?]
a_first = right_with[1, 0] - right_with[0, 0]
a_second = right_with[1, 1] - right_with[0, 1]
mean = (a_first + a_second) / 2
print(f"a adds {a_first:.2f} as the first, {a_second:.2f} as the second: {mean:.2f} in the mean")

# %% [markdown]
# **Predict** (exercise 08.1, 2 minutes, difficulty 1): two heads both can copy the name. With
# either of them, or with both, all answers are right (1); without both, none (0). What is the
# Shapley value of each?

# %%
answer = ...

# %%
check("08.1", answer)

# %% [markdown]
# Six heads join in 720 orders. Each choice of heads was already run, so the exact values are
# lookups; larger models have too many choices, and there one has to draw orders at random.


# %%
def shapley(values):
    """Shapley values, of an array with an axis of 2 for each head and one of facts."""
    gains = [[] for _ in range(values.ndim - 1)]
    for order in itertools.permutations(range(len(gains))):
        there = [0] * len(gains)
        for head in order:
            before = values[tuple(there)]
            there[head] = 1
            gains[head].append(values[tuple(there)] - before)
    return np.mean(gains, axis=1)


print("by hand:", shapley(right_with[..., None])[:, 0])
value = shapley(accuracy.reshape(*[2] * len(HEADS), len(CHOICES)))
same(value.sum(0), accuracy[-1] - accuracy[0])
finder = int(value[:, 0].argmax())
print(math.factorial(len(HEADS)), "orders; the hero's name is found by head", HEADS[finder])

# %%
figure, (left, wide) = figures.new(11, 4.2, columns=2, width_ratios=(1, 1.25))
figures.matrix(left, value, "Shapley values (share of answers)", HEADS, list(CHOICES), largest=1)
left.set(ylabel="head", xlabel="fact")
level = np.arange(len(CHOICES))
heights = [accuracy[-1], accuracy[off[finder]], accuracy[0]]
labels = ("all heads", f"without head {HEADS[finder]}", "no head")
looks = ((figures.SECOND, ""), (figures.LIT, "//"), (figures.QUIET, ""))
for k, (label, (color, hatch)) in enumerate(zip(labels, looks, strict=True)):
    wide.bar(level + 0.27 * (k - 1), heights[k], 0.25, color=color, hatch=hatch, label=label)
chances = list(chance.values())
wide.hlines(chances, level - 0.45, level + 0.45, figures.INK, ":", lw=2, label="chance")
wide.set_xticks(level, list(CHOICES))
wide.set(xlabel="fact", ylabel="right answers (share)", ylim=(0, 1.28), yticks=np.arange(6) / 5)
wide.legend(frameon=False, ncols=2, loc="upper right", fontsize=9.5)
figures.show(
    figure,
    "Left, Shapley values of six heads for four facts: one head of layer 0 has most of the hero, "
    "the heads of layer 0 share the place, none has the pet. Right, share of right answers with "
    "all heads, without the finder and without any, beside chance.",
)
assert finder < H and value[finder, 0] > 0.15 and accuracy[off[finder], 0] < 0.4
assert np.abs(value[:, 1]).max() < 0.1

# %% [markdown]
# Different truths:
#
# - The *hero* is copied: a head of layer 0 finds the name.
# - The *tool* is inferred. Do the heads look at the tool that was packed? The next table says how
#   much of each head's weight lies on which words: nearly nothing on the tool, little on the
#   complaint, much on the words of the rescue, `did`. "Freed it with the" leaves few tools to
#   choose from; `plaint` is the complaint.
# - The *pet* was not learnt: no head matters, and the answers are those of chance.


# %%
def written_by(choice):
    """Which tokens of each text a choice of the grammar wrote, (texts, T)."""
    marked = np.zeros(tokens.shape, bool)
    for row, (story, ids, _) in enumerate(cases):
        ends = np.cumsum([len(model.tokenizer.decode([token])) for token in ids]) - 2
        for span in STORIES.spans(story.facts):
            if span.choice == choice:
                marked[row, : len(ids)] |= (ends > span.start) & (ends <= span.end)
    return marked


weights = jaxgpt.activations(gpt, tokens, "blocks.*.attn.weights")
look = np.concatenate([np.asarray(array).swapaxes(0, 1) for array in weights.values()])
pairs = [("hero", "hero"), ("pet", "friend"), ("tool", "tool"), ("tool", "plaint"), ("tool", "did")]
pairs.append(("place", "place"))
print("asked for ", *(f"{fact:>6}" for fact, _ in pairs))
print("looks at  ", *(f"{choice:>6}" for _, choice in pairs))
spent = []
for fact, choice in pairs:
    row = look[:, np.arange(32), places[:, list(CHOICES).index(fact)]]  # (heads, texts, T)
    spent.append((row * written_by(choice)).sum(-1).mean(-1))
for head, row in zip(HEADS, np.transpose(spent), strict=True):
    print(f"  head {head}", *(f"{part:6.2f}" for part in row))
assert max(spent[2]) < 0.1 and max(spent[4][:H]) > 0.3

# %% [markdown]
# The head that was found, in five stories: how its attention at the place before the second name
# lies on the tokens before it.

# %%
figure, axes = figures.new(11, 3.6)
axes.set(xlim=(-0.5, places[:5, 0].max() + 6), ylim=(4.6, -0.6), ylabel="story")
for row, (story, _, at) in enumerate(cases[:5]):
    weight = look[finder, row, at[0], : at[0] + 1]
    axes.bar(np.arange(at[0] + 1), -0.8 * weight, 0.9, bottom=row + 0.3, color=figures.SECOND)
    axes.axhline(row + 0.3, color=figures.QUIET, lw=0.8)
    name = int(written_by("hero")[row].argmax())
    axes.text(name, row + 0.32, story.facts["hero"], va="top", ha="center", fontsize=9.5)
    axes.text(at[0] + 1, row + 0.3, f"? {story.facts['hero']}", color=figures.LIT, weight="bold")
    axes.text(name + 0.8, row - 0.1, f"{weight[name]:.2f}", fontsize=9)
axes.set_yticks(range(5), range(1, 6))
axes.set(xlabel="place of the token; the bars are weights, ? the place of the question")
figures.show(
    figure,
    "For five stories, the attention of the head found as bars along the tokens: in each the "
    "tallest bars stand at the hero's first name, and the question at the second.",
)

# %% [markdown]
# ## Patching: from one story into another
#
# **The idea in a breath.** A knock-out takes away; it may break more than it should. **Patching**
# exchanges: take two stories that differ in the name only, run both, and put one activation of the
# second into the first. If the model then writes the second name, that activation carried it.

# %%
facts = cases[0][0].facts
hero = facts["hero"]
other = next(name for name in STORIES.choices["hero"].urns[facts["child"]] if name != hero)
A, B = ids_of([hero, other])
place = places[0, 0]
pair = jnp.asarray([tokens[0], np.where(tokens[0] == A, B, tokens[0])])
stored = jaxgpt.activations(gpt, pair)


def towards(logits):
    """Logit of the other name less that of the story's own, at the place of the hero."""
    return logits[..., place, B] - logits[..., place, A]


ends = towards(gpt(pair))
print(f"{hero} or {other}: {ends[0]:+.1f} in the story, {ends[1]:+.1f} with the other name")

# %% [markdown]
# First one head's context at this one place, then the whole stream after each layer, at each place.
# Written as a share of the way from one story to the other: 0 changes nothing, 1 is the other name.


# %%
def patched(name, where):
    """Share of the way to the other name with activation `name` exchanged at index `where`."""
    change = {name: lambda x: x.at[where].set(stored[name][1][where[1:]])}
    return (towards(jaxgpt.intervene(gpt, pair[:1], change))[0] - ends[0]) / (ends[1] - ends[0])


moved = [
    float(patched(f"blocks.{layer}.attn.context", (0, head, place)))
    for layer, head in itertools.product(range(L), range(H))
]
for head, part in zip(HEADS, moved, strict=True):
    print(f"head {head} from the other story: {part:5.2f} of the way")
carrier = int(np.argmax(moved))
print("the name arrives by head", HEADS[carrier], "and is found by head", HEADS[finder])
assert moved[carrier] > 0.6

# %%
streams = ["embed", *(f"blocks.{layer}.out" for layer in range(L))]
every = jnp.arange(place + 1)
way = np.array([jax.vmap(lambda at, name=name: patched(name, (0, at)))(every) for name in streams])
names = ["embedding", *(f"layer {layer}" for layer in range(L))]
figures.show(
    strip(way, names, "exchanged after", "place whose vector is exchanged", "share of the way"),
    "Patching of the stream by layer and place: as an embedding, only the first name's vector "
    "carries the name; after the layers, the vector at the last place does.",
)

# %% [markdown]
# Read it from top to bottom: the name lies at its first place, and ends up at the place that has to
# say it. One head carries it there. A knock-out finds every head on the way, a patch at the last
# place only the last: if the two differ, the name came in steps. Which heads these are, and whether
# there are one or two steps, depends on the seed of the training, and is no fact about GPTs.
#
# ## The logit lens
#
# **The idea in a breath.** The last layer's vectors are turned into logits by the last norm and
# the output table. Do that after *every* layer: the **logit lens**. When is the right word on top?


# %%
def lens(stream):
    normed = jaxgpt.layer_norm(stream, **model.params["norm"])
    return jaxgpt.unembed(normed, tokens_table=None, head=model.params["head"])


found = jaxgpt.activations(gpt, tokens, streams)
same(lens(found[streams[-1]][:1]), gpt(tokens[:1]), atol=1e-4)
ranks = []
for stream in streams:
    logits = lens(found[stream][np.arange(32)[:, None], places])
    top = jnp.where(right, logits, -jnp.inf).max(-1)
    ranks.append(1 + np.median((logits > top[..., None]).sum(-1), axis=0))
print("median rank of the right word, by layer")
for name, row in zip(streams, ranks, strict=True):
    print(f"{name:>13}", *(f"{fact} {rank:6.1f}" for fact, rank in zip(CHOICES, row, strict=True)))

# %%
figure, axes = figures.new(7.5, 3.8)
styles = zip(CHOICES, ("o-", "^:", "s--", "D-."), (1, 3, 0, 2), strict=True)
palette = (figures.SECOND, figures.LIT, figures.INK, figures.QUIET)
for k, (fact, style, color) in enumerate(styles):
    axes.plot(range(L + 1), [row[k] for row in ranks], style, color=palette[color], label=fact)
axes.set_yscale("log")
axes.set_yticks([1, 10, 100, 1000], ["1", "10", "100", "1,000"])
axes.set_xticks(range(L + 1), ["embedding", *(f"layer {layer}" for layer in range(L))])
axes.set(xlabel="after", ylabel=f"rank of the right word\n(1 to {model.config.vocab_size:,})")
axes.invert_yaxis()
axes.legend(frameon=False)
figures.show(
    figure,
    "Median rank of the right word after each layer, for four facts: hero, tool and place rise to "
    "rank 1 or near it; the pet stays where it was.",
)

# %% [markdown]
# ## How a circuit is born: induction heads
#
# **The idea in a breath.** Copying a name is one trick. A more general one: "what came after this
# token last time?" No single head can do it. One has to look at the token before, and a later one
# to search for it. Two heads that work together are a **circuit**; this one's second half is an
# **induction head** (Olsson and others).
#
# Random patterns of 32 symbols, each repeated, in each row with another period. Whoever looks back
# knows the rest; before the repetition nothing can be known, so those targets do not count.

# %%
SYMBOLS, T = 32, 64


def rows_of(draw, count, period=None):
    periods = draw.integers(8, 25, count) if period is None else np.full(count, period)
    patterns = draw.integers(0, SYMBOLS, (count, T + 1))
    rows = np.take_along_axis(patterns, np.arange(T + 1) % periods[:, None], axis=1)
    repeated = np.arange(T) >= periods[:, None]
    return rows[:, :-1], np.where(repeated, rows[:, 1:], IGNORE)


inputs, targets = rows_of(np.random.default_rng(1), 2, period=8)
print(inputs[0, :24], "...\n", targets[0, :24], "...")

# %% [markdown]
# An **induction score** measures it: how much of a head's weight lies just behind an earlier
# occurrence of the query's own token, in the mean over the queries whose token has come before.
# Where a token has come several times, all the keys behind it count together; where no query
# counts, the score is 0. Yours to build (exercise 08.2, 10 minutes, difficulty 3):
# `score(weights, tokens)` of weights (T, T), rows are queries, and tokens (T,).

# %%
answer = ...  # def score(weights, tokens): ...  and then: answer = score

# %%
check("08.2", answer)


# %%
def scores(model, inputs, targets):
    """Loss of the targets, weight on the token before, and induction score of each head."""
    found = jaxgpt.activations(model, inputs, ["blocks.*.attn.weights", "logits"])
    nats, count = jaxgpt.cross_entropy(found.pop("logits"), targets)
    weights = jnp.concatenate(list(found.values()), axis=1)
    before = jnp.diagonal(weights, -1, 2, 3).mean((0, 2))
    each = jax.vmap(jax.vmap(induction_score, (0, None)))(weights, inputs)
    return nats / count, before, each.mean(0)


# %%
def train(layers, steps, period=None, every=10):
    """A model trained on repeated rows, and its scores every few steps."""
    config = jaxgpt.ModelConfig(SYMBOLS, T, layers, 2, 64, tie_head=False)
    settings = jaxgpt.OptimizerConfig(4e-3, "constant", warmup_steps=20, beta2=0.99)
    optimizer = jaxgpt.make_optimizer(settings, steps)
    state = jaxgpt.init_state(jaxgpt.init_params(config, jax.random.key(0)), optimizer)
    options = {"key": jax.random.key(1), "loss_fn": jaxgpt.next_token_loss(config)}
    step = jax.jit(partial(jaxgpt.train_step, optimizer=optimizer, **options))
    seen = rows_of(np.random.default_rng(9), 16, period)
    looking = jax.jit(lambda params: scores(jaxgpt.GPT(config, params), *seen))
    draw, history = np.random.default_rng(0), []
    for number in range(steps + 1):
        if number % every == 0:
            history.append([number, *looking(state.params)])
        state, _ = step(state, rows_of(draw, 48, period), jnp.int32(number))
    return jaxgpt.GPT(config, state.params), *map(np.array, zip(*history, strict=True))


# %%
circuit, steps, loss, before, induction = train(layers=2, steps=300)
names = ["0.0", "0.1", "1.0", "1.1"]
print("step  loss  token before, by head    induction score, by head")
for k in range(0, len(steps), 5):
    halves = [" ".join(f"{part:.2f}" for part in line[k]) for line in (before, induction)]
    print(f"{steps[k]:4d}  {loss[k]:.2f} ", *halves, sep="  ")
assert loss[-1] < 1.2 and induction[-1, 2:].max() > 0.6 and before[-1, :2].max() > 0.2

# %% [markdown]
# For a while nothing happens; then, within a few dozen steps, both halves appear together and the
# loss falls. It is a **phase change**: each half is useless without the other.
#
# Is it proof? Two **controls** ask what else could look like this. One has a single layer, so that
# no head can search for what another wrote. The other has two layers, and the *same* period in all
# rows, as many a demonstration has.

# %%
_, _, single_loss, _, single_induction = train(layers=1, steps=300)
fixed, _, fixed_loss, _, fixed_induction = train(layers=2, steps=100, period=16)
test = rows_of(np.random.default_rng(9), 16)
print(f"one layer:    loss {single_loss[-1]:.2f}, best score {single_induction[-1].max():.2f}")
print(f"fixed period: loss {fixed_loss[-1]:.2f}, best score {fixed_induction[-1].max():.2f}")
print(
    f"              on other periods, loss {scores(fixed, *test)[0]:.2f}, "
    f"best score {scores(fixed, *test)[2].max():.2f}"
)
assert single_induction[-1].max() < 0.3 and fixed_induction[-1].max() > 0.6
assert scores(fixed, *test)[0] > 3 and scores(fixed, *test)[2].max() < 0.3

# %%
figure, (left, middle, wide) = figures.new(11, 3.8, columns=3, sharex=True)
runs = {"two layers": (loss, "-", figures.SECOND), "one layer": (single_loss, "--", figures.INK)}
runs["fixed period"] = (fixed_loss, ":", figures.LIT)
for name, (line, style, color) in runs.items():
    left.plot(steps[: len(line)], line, style, color=color, label=name, lw=2)
left.axhline(np.log(SYMBOLS), color=figures.QUIET, lw=1, label="a guess: ln 32")
left.set(xlabel="step", ylabel="loss of the repetition (nats)", ylim=(0, 3.7))
style = {"linestyle": ["-", "--", "-.", ":"]}
style["color"] = [figures.SECOND] * 2 + [figures.LIT] * 2
for axes, history, title in ((middle, before, "the token before"), (wide, induction, "induction")):
    axes.set_prop_cycle(**style)
    axes.plot(steps, history, lw=2, label=[f"head {name}" for name in names])
    axes.set(xlabel="step", ylabel="weight (share of 1)", ylim=(0, 1), title=title)
left.legend(frameon=False, fontsize=9, loc=(0.4, 0.4))
middle.legend(frameon=False, fontsize=9)
figures.show(
    figure,
    "Training on repeated patterns. Left, the loss: with two layers it falls at once after a flat "
    "beginning, with one it stays high, with a fixed period it falls first. Middle and right: in "
    "layer 0 heads look at the token before, in layer 1 the induction score rises as it falls.",
)

# %% [markdown]
# With a fixed period the loss is low and the score is high, and there is *no* induction head.
# The next figure shows why: a head of *layer 0* looks at places of the first period, whatever
# stands there. Other periods refute it at once. A score is a claim; a control tests it.

# %%
figure, panels = figures.new(11, 4.0, columns=3)
shows = ((circuit, "random period: layer 1", "blocks.1.attn.weights", induction[-1, 2:]),)
shows += ((fixed, "fixed period: layer 0", "blocks.0.attn.weights", fixed_induction[-1, :2]),) * 2
for axes, (opened, title, name, score), period in zip(panels, shows, (11, 16, 11), strict=True):
    row = rows_of(np.random.default_rng(3), 1, period)[0][:, :40]
    head = int(score.argmax())
    axes.imshow(jaxgpt.activations(opened, row, name)[name][0, head], cmap="Blues", vmin=0, vmax=1)
    for back in range(period, 40, period):
        axes.plot(np.arange(1, 41 - back), np.arange(back, 40), ".", color=figures.LIT, ms=4)
    axes.set(xlabel="key (place)", ylabel="query (place)")
    axes.set_title(f"{title}\nread with period {period}", fontsize=11)
figures.show(
    figure,
    "Attention of three heads over 40 places, with dots where an induction head has to look. The "
    "circuit's head lies on the dots at a period of 11; that of the fixed period lies on them at "
    "its own period of 16, and beside them at 11.",
)

# %% [markdown]
# ## Find the bug
#
# `suspect(gpt, tokens, layer, head)` says that it knocks out one head, and returns all activations.
# The answers do get worse. But a head that is knocked out hands over nothing, and this one does.
# What did it set to 0: the `"scores"` before the softmax; what belongs to another `"layer"`; to
# another `"head"`; only one `"place"`; or `"nothing"`? (Exercise 08.3, 6 minutes, difficulty 2.)

# %%
layer, head = divmod(finder, H)
before, after = jaxgpt.activations(gpt, tokens[:1]), suspect(gpt, tokens[:1], layer, head)
name = f"blocks.{layer}.attn.context"
for k in range(H):
    sizes = [float(jnp.abs(found[name][0, k]).mean()) for found in (before, after)]
    print(f"head {layer}.{k}: mean size of its context {sizes[0]:.2f}, after it {sizes[1]:.2f}")
answer = ...

# %%
check("08.3", answer)

# %% [markdown]
# ## The explorer
#
# [explorer.html](explorer.html) is a page with all this for one story: switch heads off, and see
# the next tokens, what surprises, and the name change. Save it and open it in a browser; it needs
# no network. Where that cannot be, here is the same state as a picture: the heads all on, and the
# one that was found off.

# %%
without = jaxgpt.intervene(
    gpt, tokens, jaxgpt.keep_heads(model.config, choices[off[finder]].reshape(L, H))
)
says = without[np.arange(32), places[:, 0]].argmax(-1)
every = np.arange(32)
known = right[every, 0, gpt(tokens)[every, places[:, 0]].argmax(-1)]
another = known & candidates[0, says] & ~right[every, 0, says]
row = int(another.argmax())  # the first story in which another name is written
story, ids, at = cases[row]
questions = [
    explorer.Question(
        fact, at[k], *(np.flatnonzero(words[k]) for words in (candidates, right[row]))
    )
    for k, fact in enumerate(CHOICES)
]

# %%
notes = [
    ", ".join(f"{fact} {part:.2f}" for fact, part in zip(CHOICES, row, strict=True) if part >= 0.1)
    for row in value
]
text = explorer.page(
    explorer.explore(model, ids, questions, [note or "none of these facts" for note in notes])
)
explorer.write(text)
data = explorer.read(text)
states = [explorer.state(data, at[0], off) for off in ([], [HEADS[finder]])]
print(f"a page of {len(text) / 1000:.0f} kB")
print("all heads on, the story goes on:", states[0].continuation)
print(f"without head {HEADS[finder]}:       ", states[1].continuation)
assert len(text) < 300_000

# %%
figure, panels = figures.new(11, 5.2, columns=2, rows=2, height_ratios=(1.5, 1))
titles = ("all heads on", f"head {HEADS[finder]} off")
for axes, lower, shown_state, title in zip(*panels, states, titles, strict=True):
    labels, chances = zip(*reversed(shown_state.bars), strict=True)
    colors = [
        figures.LIT if word == data["questions"][0]["right"] else figures.SECOND for word in labels
    ]
    axes.barh(range(len(labels)), chances, color=colors)
    axes.set_yticks(range(len(labels)), [word.strip() for word in labels])
    for level, chance in enumerate(chances):
        axes.text(chance + 0.01, level, f"{chance:.0%}", va="center", fontsize=9)
    axes.set(xlim=(0, 1.1), xlabel="probability of the next token", title=title)
    lower.bar(range(1, len(ids)), shown_state.surprise, 1.0, color=figures.QUIET)
    lower.bar(at[0] + 1, shown_state.surprise[at[0]], 2.0, color=figures.LIT, label="the name")
    lower.legend(frameon=False, loc="upper left", fontsize=9.5)
    lower.set(xlabel="token", ylabel="surprise (bits)", ylim=(0, 16))
figures.show(
    figure,
    "The explorer's state as a picture: with all heads on, the hero's name is by far the likeliest "
    "next token; with the head found off, other names lead. Below, each token's surprise.",
)

# %% [markdown]
# ## In the library
#
# `jaxgpt/model/activations.py` has `activations`, `intervene` and `keep_heads`; all are pure, so
# they run under `jit` and `vmap`. `tests/parity/test_activations.py` shows that what they read and
# change is what hooks in PyTorch do.
#
# ## What you know now
#
# - Attention shows where a head looks; only a knock-out or a patch shows what it does.
# - A Shapley value shares a gain among heads exactly, also where they stand in for each other.
# - A score or a low loss proves no circuit before a control has failed to give the same.
#
# Next: 09, where the model learns a task of its own.
