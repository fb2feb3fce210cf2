# %% [markdown]
# # 07 Running a full LLM
#
# **What you will build**: the loop that makes a text of a trained model, and the choices in it: how
# the next token is drawn, what is kept from token to token, where to stop. At the end you measure
# whether what it writes is possible at all. You need Python and arrays; no machine learning.
# 30 minutes.

# %%
import math
import os
import re
import tempfile
import textwrap
import time
from collections import Counter
from functools import partial
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.patches import Rectangle

# %%
import jaxgpt
from course import book, check, figures, same
from course.exercises.generation import suspect
from course.model import trained
from jaxgpt import SamplingConfig, TorchGenerator
from jaxgpt.data.grammar import Grammar, by, one_of
from jaxgpt.data.stories import STORIES, story_entropy, tell_story
from jaxgpt.generation.sampling import filter_logits
from jaxgpt.generation.text import TextWriter, stream_texts
from jaxgpt.model.gpt import init_cache

# %%
np.set_printoptions(precision=4, suppress=True)
model = trained()
config, params, tokenizer = model.config, model.params, model.tokenizer
GREEDY = SamplingConfig(temperature=0)
prompt = tokenizer.encode("Once upon a time")
print("prompt", prompt, [tokenizer.decode([token]) for token in prompt])

# %% [markdown]
# ## The path
#
# The model was trained in notebook 06. It is run from left to right, once for each token.

# %%
run = jax.jit(lambda params, tokens: jaxgpt.GPT(config, params)(tokens))
forward = partial(run, params)
logits = forward(jnp.array(prompt))[-1]
likeliest = int(logits.argmax())
figures.path_strip(
    "token",
    [
        "Once upon...",
        f"{len(prompt)} ids",
        f"{len(prompt)} of {config.embed_dim} numbers",
        f"{config.num_heads} heads",
        f"{config.num_layers} layers",
        f"{len(logits):,} numbers",
        repr(tokenizer.decode([likeliest])),
        "a token longer",
    ],
)

# %% [markdown]
# ## Running a full LLM
#
# **The idea in a breath.** A GPT has one number for each token of its vocabulary: the **logit**, a
# score of how well the token goes on with the text. Take a token, put it behind the text, and ask
# again. That is all that any chat program does.
#
# Taking the token with the largest logit is **greedy** decoding. A text of growing length would be
# compiled anew for each length, so it stands at the left of a window of fixed size. What is behind
# it changes nothing, as the mask hides it.


# %%
def write(forward, prompt, count, choose=jnp.argmax, room=64):
    tokens = list(prompt)
    for _ in range(count):
        window = jnp.array(tokens + [0] * (room - len(tokens)))
        tokens.append(int(choose(forward(window)[len(tokens) - 1])))
    return tokens[len(prompt) :]


written = write(forward, prompt, 40)
print(textwrap.fill("Once upon a time" + tokenizer.decode(written), 90))
(theirs,) = jaxgpt.generate(config, params, [prompt], max_new_tokens=40, sampling=GREEDY)
same(written, theirs)

# %% [markdown]
# At real size: the shape of the smallest GPT-2, with random parameters from the book's seed. Our
# loop goes on from "Hello, I am" with nonsense, and it is the very nonsense of the book.

# %%
shape = jaxgpt.ModelConfig(qkv_bias=False, tie_head=False)
random = jax.tree.map(jnp.asarray, jaxgpt.init_like_torch(shape, TorchGenerator(123)))
run_large = jax.jit(lambda params, tokens: jaxgpt.GPT(shape, params)(tokens))
hello = [15496, 11, 314, 716]
nonsense = write(partial(run_large, random), hello, 10, room=16)
print(f"{jaxgpt.count_parameters(shape):,} parameters:", nonsense)
book("ch04.generate.greedy", hello + nonsense)
del random

# %% [markdown]
# ## Temperature, top-k, top-p and min-p
#
# **The idea in a breath.** Greedy decoding writes one story, for ever the same. Softmax makes
# probabilities of the logits; draw a token by them, and each story is another. How bold the draw
# is can be set, by changing the logits before softmax.
#
# A vocabulary of nine words is enough to see it. These are the book's logits for the word after
# "every effort moves you".

# %%
VOCABULARY = ["closer", "every", "effort", "forward", "inches", "moves", "pizza", "toward", "you"]
toy = jnp.array([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79])
book("ch05.toy_logits", [float(str(number)) for number in np.asarray(toy)])
none_seen = jnp.zeros((1, len(toy)), bool)


def packages(logits, **settings):
    return filter_logits(logits[None], SamplingConfig(**settings), none_seen)[0]


softmax = jax.nn.softmax
for temperature in (0.5, 1, 2):
    same(softmax(toy / temperature), softmax(packages(toy, temperature=temperature)))
    print(f"temperature {temperature}:", np.asarray(softmax(toy / temperature)))

# %% [markdown]
# Dividing the logits by a **temperature** below 1 draws them apart: likely words become likelier.
# Above 1 they come closer. Towards 0 the draw becomes greedy, and 0 is taken to mean that.
#
# With PyTorch's random numbers, made here without PyTorch, the words drawn are the book's.

# %%
counts = {}
for temperature in ("1", "0.1", "5"):
    generator = TorchGenerator(123)
    chances = np.asarray(softmax(toy / float(temperature)))
    draws = [int(generator.multinomial(chances)[0]) for _ in range(1000)]
    counts[temperature] = np.bincount(draws, minlength=len(toy))
    print(f"temperature {temperature:>3}:", counts[temperature])
book("ch05.multinomial", counts)

# %% [markdown]
# At temperature 5, pizza is not rare: the tail of unlikely words, which is long in a real
# vocabulary, is drawn too often. So cut it off: set the logits of unlikely words to minus infinity,
# whose softmax is 0. Three rules say which.
#
# - **top-k** keeps the k likeliest
# - **min-p** keeps those at least p times as likely as the likeliest
# - **top-p** keeps the fewest that together hold a probability of p or more


# %%
def top_k(logits, k):
    least = jnp.sort(logits)[-k]
    return jnp.where(logits >= least, logits, -jnp.inf)


def min_p(logits, p):
    chances = softmax(logits)
    return jnp.where(chances >= p * chances.max(), logits, -jnp.inf)


kept = top_k(toy, 3)
same(softmax(kept), softmax(packages(toy, top_k=3)))
same(softmax(min_p(toy / 2, 0.05)), softmax(packages(toy, temperature=2, min_p=0.05)))
values, places = jax.lax.top_k(kept, 3)
book("ch05.topk3", {"values": values, "positions": places, "probas": softmax(kept)})

# %% [markdown]
# **Predict** (exercise 07.1, 3 minutes, difficulty 1): how many of the nine words does top-p keep
# with p = 0.9 at temperature 2? The temperature comes first; its probabilities are printed above.

# %%
answer = ...

# %%
check("07.1", answer)

# %% [markdown]
# Here is top-p, word by word: the likeliest first, and the sum so far. Words remain until the sum
# has reached p; the one that reaches it remains too.

# %%
chances = np.asarray(softmax(toy / 2))
rest = np.isfinite(np.asarray(packages(toy, temperature=2, top_p=0.9)))
total = 0.0
for place in np.argsort(-chances):
    total += chances[place]
    print(
        f"{VOCABULARY[place]:>8} {chances[place]:.4f} sum {total:.4f}",
        "kept" if rest[place] else "",
    )

# %% [markdown]
# Yours to build (exercise 07.2, 10 minutes, difficulty 2): `top_p(logits, p)`, the logits (V,) with
# minus infinity for what is ruled out. Words of equal logits share one fate: none is kept without
# the other. Some logits may be minus infinity already.

# %%
answer = ...  # def top_p(logits, p): ...  and then: answer = top_p

# %%
check("07.2", answer)

# %% [markdown]
# Does `sample` draw by these probabilities? Let it draw 10,000 words under six settings. For each
# word, take the square of (drawn - expected), divided by expected; words expected fewer than five
# times are left out. For n words the sum, **chi-square**, is about n - 1 if all is well, and for
# nine words above 26 only once in a thousand times.

# %%
SETTINGS = {
    "temperature 1": {},
    "temperature 0.5": {"temperature": 0.5},
    "temperature 2": {"temperature": 2.0},
    "temperature 2, top-k 3": {"temperature": 2.0, "top_k": 3},
    "temperature 2, top-p 0.95": {"temperature": 2.0, "top_p": 0.95},
    "temperature 2, min-p 0.05": {"temperature": 2.0, "min_p": 0.05},
}
DRAWS = 10_000
rows, keys = jnp.tile(toy, (DRAWS, 1)), jax.random.split(jax.random.key(0), DRAWS)
drawn = {}
for title, setting in SETTINGS.items():
    words = jaxgpt.sample(rows, jnp.zeros(rows.shape, bool), keys, SamplingConfig(**setting))
    drawn[title] = np.bincount(np.asarray(words), minlength=len(toy))
    expected = DRAWS * np.asarray(softmax(packages(toy, **setting)))
    assert not drawn[title][expected == 0].any()  # what was cut off never comes
    often = expected >= 5
    distance = ((drawn[title] - expected)[often] ** 2 / expected[often]).sum()
    print(f"{title:>26}: {often.sum()} words, chi-square {distance:5.2f}")
    assert distance < 26

# %%
figure, panels = figures.new(11, 6.2, columns=3, rows=2, sharey=True)
order = np.argsort(-toy)
for axes, (title, setting) in zip(panels.flat, SETTINGS.items(), strict=True):
    before = np.asarray(softmax(toy / setting.get("temperature", 1.0)))[order]
    after = np.asarray(softmax(packages(toy, **setting)))[order]
    axes.bar(range(9), after, color=figures.QUIET, edgecolor=figures.INK, label="probability")
    cut = np.where(after == 0, np.maximum(before, 0.015), 0)
    axes.bar(range(9), cut, color="white", edgecolor=figures.LIT, hatch="////", label="cut off")
    axes.plot(range(9), drawn[title][order] / DRAWS, "o", color=figures.INK, ms=4, label="drawn")
    axes.set_title(title, fontsize=11)
    axes.set_xticks(range(9), [VOCABULARY[i] for i in order], rotation=60, ha="right", fontsize=9)
for axes in panels[:, 0]:
    axes.set_ylabel("share of all words")
panels[1, 2].legend(frameon=False)
figures.show(
    figure,
    "Nine words under six settings, bars for probabilities and dots for the shares drawn, on their "
    "tops: a low temperature raises the first bar, a high one flattens all, and the three filters "
    "each cut off another part of the tail, hatched, where nothing is drawn.",
)

# %% [markdown]
# ## A cache of keys and values
#
# **The idea in a breath.** The loop above computes the whole text again for each new token. But the
# mask lets a token see only what is before it. So nothing of an earlier token ever changes, and its
# keys and values can be kept: the **key-value cache**.
#
# By hand, with five tokens of width 4: the keys of the first four are the same without the fifth;
# and for the new token's context vector, its own query is enough.

# %%
generator = TorchGenerator(0)
x = jnp.asarray(generator.randn(5, 4))
names = ("query", "key", "value")
W = {name: jnp.asarray(generator.linear(4, 4, bias=False)["weight"]) for name in names}
same((x @ W["key"])[:4], x[:4] @ W["key"])
keys, values = x @ W["key"], x @ W["value"]
newest = softmax(x[4] @ W["query"] @ keys.T / math.sqrt(4)) @ values
full = jaxgpt.causal_attention(x, **{name: {"weight": weight} for name, weight in W.items()})
same(newest, full[4])

# %% [markdown]
# The package's `cached_attention` takes new tokens, the cache, and the place where the new ones
# begin. A token at a time, it gives what `multi_head_attention` gives at once.

# %%
qkv = {"weight": jnp.concatenate([W[name] for name in names], axis=1)}
out = jax.tree.map(jnp.asarray, generator.linear(4, 4))
settings = {"qkv": qkv, "out": out, "num_heads": 2}
cache = jnp.zeros((1, 2, 5, 2)), jnp.zeros((1, 2, 5, 2))  # (B, heads, places, K), twice
rows = []
for place in range(5):
    new = x[None, place : place + 1]
    context, cache = jaxgpt.cached_attention(new, cache, jnp.array([place]), **settings)
    rows.append(context[0, 0])
same(jnp.stack(rows), jaxgpt.multi_head_attention(x, **settings))

# %% [markdown]
# In a whole model each layer has such a cache. `GPT.decode` first takes in the prompt at once, and
# then a token at a time. Its logits are those of the whole text, token by token.

# %%
text = tokenizer.encode("Once upon a time, in Foxton, lived Lily")
decode = jax.jit(
    lambda new, cache, start: jaxgpt.GPT(config, params).decode(
        new, cache, start, jnp.array([new.shape[1] - 1])
    )
)
cache, start, sizes, steps = init_cache(config, 1, len(text)), 0, [], []
for new in [text[:4], *([token] for token in text[4:])]:
    logits, cache = decode(jnp.array([new]), cache, jnp.array([start]))
    start += len(new)
    steps.append(logits[0])
    sizes.append(jnp.linalg.norm(cache[0][0][0], axis=(0, 2)))  # of the keys of the first layer
same(jnp.stack(steps), forward(jnp.array(text))[3:], rtol=1e-3, atol=1e-3)

# %%
figure, axes = figures.new(9, 4.6)
sizes, labels = np.array(sizes), [repr(tokenizer.decode([token])) for token in text]
after = [f"after {labels[place]}" for place in range(3, len(text))]
figures.matrix(axes, sizes, "", after, labels, digits=1, hidden=sizes == 0)
axes.set(xlabel="place in the cache", ylabel="step")
for step in range(len(sizes)):
    places = range(4) if step == 0 else [step + 3]
    for place in places:  # what is new in this step
        frame = {"fill": False, "edgecolor": figures.LIT, "linewidth": 2.5}
        axes.add_patch(Rectangle((place - 0.5, step - 0.5), 1, 1, **frame))
figures.show(
    figure,
    "The size of the keys in the cache of the first layer, step by step: the prompt fills the "
    "first places at once, framed, then each step one more, and what is there never changes.",
)

# %% [markdown]
# What does it save? Count the multiplications for one more token, where t are in the text. Each
# number of a matrix is used once for each token that is computed, and attention takes 2 D more for
# each pair of tokens and each layer, where D is the width. The compiler's own count is nearly the
# same.


# %%
def products(config, t, cached):
    shapes = jaxgpt.parameter_shapes(config)
    blocks = sum(leaf.size for leaf in jax.tree.leaves(shapes["blocks"]) if leaf.ndim == 3)
    computed = 1 if cached else t
    pairs = 2 * t * computed * config.embed_dim * config.num_layers
    return computed * blocks + config.vocab_size * config.embed_dim + pairs


def by_compiler(t, cached):
    new = jax.ShapeDtypeStruct((1, 1 if cached else t), jnp.int32)
    place = jax.ShapeDtypeStruct((1,), jnp.int32)
    room = jax.eval_shape(lambda: init_cache(config, 1, t))
    return decode.lower(new, room, place).cost_analysis()["flops"] / 2  # a product and a sum: 2


for t in (16, 64, 256):
    for cached in (True, False):
        ours, compilers = products(config, t, cached), by_compiler(t, cached)
        how = "with" if cached else "without"
        print(f"{t:>4} tokens, {how:>7} cache: {ours:>12,} and {compilers:>12,.0f}")
        assert abs(ours / compilers - 1) < 0.05

# %%
figure, panels = figures.new(11, 3.8, columns=2)
shapes = {"our model": config, "GPT-2": jaxgpt.get_preset("gpt2").model}
for axes, (title, shape) in zip(panels, shapes.items(), strict=True):
    lengths = np.unique(np.geomspace(1, shape.context_length, 30).astype(int))
    for cached, style, color in ((False, "--", figures.LIT), (True, "-", figures.SECOND)):
        line = [products(shape, int(t), cached) / 1e6 for t in lengths]
        label = f"{'with' if cached else 'without'} a cache"
        axes.loglog(lengths, line, style, color=color, lw=2, label=label)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="tokens in the text", ylabel="products for one more (millions)", title=title)
    axes.legend(frameon=False)
figures.show(
    figure,
    "Products for the next token against the length of the text, for our model and GPT-2, both "
    "axes logarithmic: without a cache a line that rises steeply, with one nearly level.",
)
gpt2 = shapes["GPT-2"]
cache_bytes = 2 * gpt2.num_layers * gpt2.context_length * gpt2.embed_dim * 4
print(f"a full cache of GPT-2: {cache_bytes / 2**20:.0f} MB")

# %% [markdown]
# A cache costs memory, and saves nearly all of the work. Which is faster here?


# %%
def seconds(job):
    job()  # compiled before the clock starts
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


uncached = seconds(lambda: write(forward, prompt, 60, room=256))
cached = seconds(
    lambda: jaxgpt.generate(config, params, [prompt], max_new_tokens=60, sampling=GREEDY)
)
print("faster:", "with the cache" if cached < uncached else "without")
print("by more than twice:", uncached > 2 * cached)

# %% [markdown]
# Beyond the context length the oldest token has to go, and all others move one position to the
# left. Then nothing in the cache is right any more, and the package computes the window anew for
# each token: slow again, but equal.
#
# ## Where to stop
#
# **The idea in a breath.** A model never ends by itself: it always has a next token. So a text ends
# at a special token, after a number of tokens, or before a **stop string**. Our stories end with a
# blank line, so that is ours.
#
# It is harder than it looks. A stop string may arrive in pieces, and a reader should see none of
# it. So what may be its beginning is held back until it is certain.

# %%
writer = TextWriter(tokenizer, stop=["\n\n"])
shown = ""
for token in tokenizer.encode("It rained.\nBe kind.\n\nOnce upon"):
    shown += (piece := writer.write([token]))
    print(f"{tokenizer.decode([token])!r:>10} -> {piece!r:<10}", "stopped" * writer.stopped)
assert shown == "It rained.\nBe kind."

# %%
pieces = jaxgpt.generate_text(
    model,
    "Once upon a time",
    max_new_tokens=200,
    seed=7,
    stop=["\n\n"],
    sampling=SamplingConfig(0.7),
)
print(textwrap.fill("Once upon a time" + "".join(pieces), 90))

# %% [markdown]
# ## Is the story possible?
#
# **The idea in a breath.** Is what a model writes any good? In most languages that is a matter of
# opinion. Ours is made by a **grammar**, a list of choices, and so the answer is yes or no: a text
# is in its **language** if some way of choosing writes it.
#
# A small grammar first. Whether the child is a girl decides on the name and on "she"; the tool of
# the second sentence must be that of the first. Of the texts below, which are in the language?
# There are few enough for a list of them all.

# %%
small = Grammar(
    {
        "child": one_of("girl, boy"),
        "hero": by("child", girl="Lily, Mia", boy="Tom"),
        "she": by("child", girl="She", boy="He"),
        "tool": one_of("rope, map"),
        "story": one_of({"{hero} took a {tool}. {she} used the {tool}.": 1}),
    }
)
language = {
    f"{hero} took a {tool}. {she} used the {tool}."
    for hero, she in (("Lily", "She"), ("Mia", "She"), ("Tom", "He"))
    for tool in ("rope", "map")
}
tried = [
    f"{hero} took a {tool}. {she} used the {other}."
    for hero, she, tool, other in product(
        ("Lily", "Mia", "Tom", "Zoe"), ("She", "He"), ("rope", "map"), ("rope", "map")
    )
]
same([text in language for text in tried], [small.parse(text).facts is not None for text in tried])
print(small.parse("Mia took a map. She used the map.").facts)

# %% [markdown]
# `Grammar.parse` needs no list. It reads from the left, tries each alternative, and goes back where
# one does not fit. A list would be long: a story carries as many bits as are printed below, so
# there are more stories than 2 to that power. Where a text leaves the language, it says which
# choice would have to go on.

# %%
print(f"bits of a story: {story_entropy():.0f}")
told = [tell_story(index, seed=1).text for index in range(64)]
assert all(STORIES.parse(text).facts for text in told)
story = "Mia took a map. He used the map."
parsed = small.parse(story)
print(f"{story[: parsed.end]!r} fits, {story[parsed.end :]!r} does not; wanted:", *parsed.expected)
print("read without memory:", small.parse(story, remember=False).facts is not None)

# %% [markdown]
# The last line is a milder question. Read without **memory**, each word only has to be one that may
# stand at its place, whatever was said before: the form is right, even if the story contradicts
# itself.
#
# Now 64 stories of the model at each of seven temperatures, and four measures: how many have the
# right form; how many are possible; how much of a story can be read before it is impossible; and
# how many different words there are, beside 64 stories of the grammar. A word that no story knows
# is not counted.


# %%
def tell(temperature, count=64):
    texts = ["Once upon a time"] * count
    setting = SamplingConfig(temperature=temperature)
    for new in stream_texts(model, texts, max_new_tokens=200, sampling=setting, stop=["\n\n"]):
        texts = [text + piece for text, piece in zip(texts, new, strict=True)]
    return [text + "\n\n" for text in texts]


def words_of(texts):
    return set(re.findall(r"[A-Za-z]+", " ".join(texts)))


known = words_of(tell_story(index, seed=2).text for index in range(3000))


def measure(texts):
    whole = [STORIES.parse(text) for text in texts]
    form = [STORIES.parse(text, remember=False).facts is not None for text in texts]
    possible = [parsed.facts is not None for parsed in whole]
    readable = [parsed.end / len(text) for parsed, text in zip(whole, texts, strict=True)]
    words = len(words_of(texts) & known) / len(words_of(told) & known)
    return [np.mean(form), np.mean(possible), np.mean(readable), words]


# %%
TEMPERATURES = (0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
stories = {temperature: tell(temperature) for temperature in TEMPERATURES}
measured = {temperature: measure(texts) for temperature, texts in stories.items()}
print(f"{'temperature':>11} {'form':>9} {'possible':>9} {'readable':>9} {'words':>9}")
for name, row in {"the grammar": measure(told), **measured}.items():
    print(f"{name:>11}", *(f"{share:>9.0%}" for share in row))
print("different stories at 0, 0.25:", len(set(stories[0])), len(set(stories[0.25])))

# %%
figure, axes = figures.new(9, 4.4)
lines = [("right form", "o-", figures.SECOND), ("possible", "x-", figures.INK)]
lines += [("readable until it fails", "s--", figures.LIT)]
lines += [("different words, beside the grammar's", "^:", figures.INK)]
for place, (label, style, color) in enumerate(lines):
    line = [100 * measured[temperature][place] for temperature in TEMPERATURES]
    axes.plot(TEMPERATURES, line, style, color=color, label=label)
axes.set(xlabel="temperature", ylabel="percent", ylim=(-4, 112), xticks=TEMPERATURES)
axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
figures.show(
    figure,
    "Four measures of 64 stories against temperature: the share of right form is high at "
    "low ones and falls to nothing, the number of different words rises, hardly any story is "
    "possible as a whole, and a part of each can be read.",
)
assert measured[0.5][0] > 0.8 > 0.2 > measured[1.5][0]
assert max(possible for _, possible, _, _ in measured.values()) < 0.1
assert measured[0][3] < measured[0.5][3] < measured[1.0][3]

# %% [markdown]
# The temperature buys variety with mistakes of form: that much is seen with any model. But hardly a
# story is possible, at any temperature, even where the form is right. What do they contradict? Let
# us see one, and then count which choice did not fit first.

# %%
parsed, text = next(
    (parsed, text)
    for text in stories[0.75]
    if STORIES.parse(text, remember=False).facts and not (parsed := STORIES.parse(text)).facts
)
print(textwrap.fill(text[: parsed.end], 90))
print("--- impossible from here on; wanted:", *sorted(parsed.expected))
print(textwrap.fill(text[parsed.end :], 90))


# %%
def could_say(name, text):
    return any(text.startswith(word) for urn in STORIES.choices[name].urns.values() for word in urn)


first = Counter()
for text in stories[0.5] + stories[0.75]:
    parsed = STORIES.parse(text)
    if parsed.facts is None and STORIES.parse(text, remember=False).facts:
        # Of the choices that could go on, the one that has such a word, but another one is due.
        said = [name for name in parsed.expected if could_say(name, text[parsed.end :])]
        first[" or ".join(sorted(said or parsed.expected))] += 1
names, counted = zip(*first.most_common(), strict=True)
figure, axes = figures.new(8, 3.4)
axes.barh(names, counted, color=figures.SECOND, edgecolor=figures.INK)
axes.invert_yaxis()
axes.set(xlabel="stories of right form that contradict themselves here first", ylabel="choice")
figures.show(
    figure,
    "How many stories contradict themselves first in which choice, a bar for each: the longest is "
    "that of friend, the pet's name; what is wrong, the month and others follow.",
)
assert names[0] == "friend"

# %% [markdown]
# In the grammar, `friend` is the pet's name, `plaint` what is wrong, which the packed tool betrays;
# `month` has to fit the weather, and `spot` and `finds` the place. So the model has learnt what a
# story looks like. What it has not learnt well is to remember, and no temperature mends that.
# Notebook 08 looks for the parts that do remember.
#
# ## Saving and loading
#
# **The idea in a breath.** GPT-2 was published as a folder: a file of settings, and a file in which
# each array has a name. Who writes those names can hand a model to any program that reads GPT-2,
# and who reads them can run GPT-2. Our model has the same parts, so it fits.

# %%
with tempfile.TemporaryDirectory() as folder:
    jaxgpt.save_gpt2(f"{folder}/model", config, params, tokenizer=tokenizer)
    for path in sorted(Path(f"{folder}/model").iterdir()):
        print(path.name)
    again, loaded = jaxgpt.load_gpt2(f"{folder}/model")
    same_bits = jax.tree.map(lambda a, b: bool((a == b).all()), params, loaded)
    read = jaxgpt.load_pretrained(f"{folder}/model")
print("every number the same:", all(jax.tree.leaves(same_bits)))
print("the same settings:", again == config)
assert all(jax.tree.leaves(same_bits))
assert read.tokenizer.encode("Once upon a time") == prompt
assert jaxgpt.generate(again, loaded, [prompt], max_new_tokens=40, sampling=GREEDY) == [written]

# %% [markdown]
# GPT-2 itself is half a gigabyte, and not bundled. If you have its folder, name it in
# `JAXGPT_GPT2`, and this cell runs it: the same loop, the same function.

# %%
if folder := os.environ.get("JAXGPT_GPT2"):
    gpt2 = jaxgpt.load_pretrained(folder)
    pieces = jaxgpt.generate_text(
        gpt2, "Every effort moves you", max_new_tokens=25, sampling=SamplingConfig(top_k=50)
    )
    print(textwrap.fill("Every effort moves you" + "".join(pieces), 90))
else:
    print("JAXGPT_GPT2 names no folder; GPT-2 is left out")

# %% [markdown]
# ## Find the bug
#
# `suspect(model, prompt, count)` decodes greedily with a cache, and writes another text than the
# package does. `found.sizes[i]` has the size of the first layer's key in each place of the cache
# after i new tokens, as in the picture above; `found.positions` has the new tokens' positions. Is
# each key written one place too `"late"`, are new keys `"overwritten"` by the next, was the cache
# not empty but `"stale"`, are the `"positions"` wrong, or is the `"prompt"`? (Exercise 07.3,
# 8 minutes, difficulty 2.)

# %%
found = suspect(model, text_ids := tokenizer.encode("Once upon a time, in Foxton"), 30)
(right,) = jaxgpt.generate(config, params, [text_ids], max_new_tokens=30, sampling=GREEDY)
for name, tokens in {"right": right, "suspect": found.tokens}.items():
    print(textwrap.fill(f"{name}: ...{tokenizer.decode(tokens)}", 90))
print(f"sizes {found.sizes.shape}, positions {found.positions[:4]}..., prompt of {len(text_ids)}")
answer = ...

# %%
check("07.3", answer)

# %% [markdown]
# ## In the library
#
# The loop is `stream` in `jaxgpt/generation/decoding.py`, the filters are in
# `jaxgpt/generation/sampling.py`, and `jaxgpt/generation/text.py` makes text of both.
# `tests/generation/test_decoding.py` shows that cached and uncached agree, and
# `tests/parity/test_hf_weights.py` that the published program reads what is saved here.
#
# ## What you know now
#
# - A text is written a token at a time: logits, a filter, a draw, and again.
# - Keys and values of earlier tokens never change, so a cache keeps them: less work, equal numbers.
# - With a grammar, "is it any good?" has an answer: the form is learnt well before the facts hold.
#
# Next: 08, where we open the trained model, and look for what remembers.
