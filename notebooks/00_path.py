# %% [markdown]
# # 00 The whole path
#
# **What you will build**: a small language model, from text to a model that writes, in one sitting.
# Every stage comes once, in its simplest form, with the notebook where it is explained. You need
# Python and arrays; no machine learning. 20 minutes.

# %%
import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxgpt
from course import check, figures, same
from course.exercises.path import suspect_decode
from jaxgpt import GPT, SamplingConfig, SlidingWindows, linear
from jaxgpt.data.story_questions import preferences, questions
from jaxgpt.finetuning.instructions import encode_conversation
from jaxgpt.generation.text import PreparedModel

preset = jaxgpt.get_preset("tiny")
stories = list(jaxgpt.write_stories(100_000, seed=0))
text = "".join(story.text for story in stories)
tokenizer = jaxgpt.train_bpe([text], 512)
config = replace(preset.model, vocab_size=tokenizer.vocab_size)
SENTENCE = "Lily and Pip went to the lake."
print(stories[0].text[:96], "...")

# %% [markdown]
# ## The path
#
# A language model guesses how a text goes on. Text becomes **tokens**, numbers that stand for
# pieces of it; tokens become **vectors**, rows of numbers to compute with; those pass through
# layers; and out comes a guess for the next token, which is text again.

# %%
ids = tokenizer.encode(SENTENCE)
figures.path_strip(
    "text",
    [
        *(SENTENCE[:12] + "...", str(ids[:3])[:-1] + ", ..."),
        f"{len(ids)} rows of {config.embed_dim}",
        *(f"{config.num_heads} heads", f"{config.num_layers} in a row"),
        *(f"{config.vocab_size} scores", "one of them", "and so on"),
    ],
)

# %% [markdown]
# ## The complete workflow
#
# A model such as ChatGPT is made in three parts. **Data**: texts become batches of tokens. **The
# model**: it learns to guess the next token, which is called **pretraining**. **The assistant**:
# the same model goes on learning from questions with answers, and from what people prefer, which is
# **fine-tuning**. Here is all of it with the numbers of this notebook. The data are little stories
# written by a program, so that it is known how good a model can possibly get.

# %%
question = questions(0, seed=1)[0]
alpaca, Turn = jaxgpt.TEMPLATES["alpaca"], jaxgpt.Turn
turns = [Turn("user", question.prompt), Turn("assistant", question.sentence)]
row = encode_conversation(turns, alpaca, tokenizer)
learnt = int((row.targets >= 0).sum())
corpus = np.array(tokenizer.encode(text), np.int32)
T, D, V, B = config.context_length, config.embed_dim, config.vocab_size, preset.batch_size
windows = SlidingWindows(corpus, context_length=T, stride=T)
size = jaxgpt.count_parameters(config)
inside = sum(leaf.size for leaf in jax.tree.leaves(jaxgpt.parameter_shapes(config)["blocks"]))
data = [f"{len(stories)} stories", f"{len(text):,} characters"], ["tokenizer", f"{V} pieces"]
data += ["tokens", f"({len(corpus):,},)"], ["windows", f"{len(windows)} of {T}"]
data += ["batch", f"({B}, {T}) ids"], ["targets", "one place on"]
model = ["embedding", f"({B}, {T}, {D})"], ["attention", f"{config.num_heads} heads"]
model += (
    ["feed-forward", f"{D} > {4 * D} > {D}"],
    [f"{config.num_layers} blocks", f"{inside:,} parameters"],
)
model += ["logits", f"({B}, {T}, {V})"], ["loss", "one number"]
assistant = ["question", f"{len(question.prompt)} characters"], ["template", f"{len(row)} tokens"]
assistant += ["answer", f"{learnt} targets"], ["instructions", "learn answers"]
assistant += ["preferences", "learn which"], ["chat", "answers you"]

# %%
figure, axes = figures.new(11, 4.4)
axes.axis("off")
axes.set(xlim=(0, 11.3), ylim=(0, 4.5))
for place, (name, boxes) in enumerate((("Data", data), ("Model", model), ("Assistant", assistant))):
    bottom = 3.1 - 1.5 * place
    axes.text(0, bottom + 0.95, name, weight="bold")
    for column, lines in enumerate(boxes):
        left = 1.92 * column
        figures.box(axes, left, bottom, 1.6, 0.85, "\n".join(lines), lit=column == 5)
        if column:
            figures.arrow(axes, (left - 0.32, bottom + 0.42), (left, bottom + 0.42))
    if place < 2:
        figures.arrow(axes, (10.4, bottom), (10.4, bottom - 0.65))
figures.show(
    figure,
    "The workflow in three rows of six boxes. Data: stories, tokenizer, tokens, windows, batch, "
    "targets. Model: embedding, attention, feed-forward, blocks, logits, loss. Assistant: "
    "question, template, answer, instructions, preferences, chat. Each has its numbers here.",
)

# %% [markdown]
# Seven letters name the sizes, in the notebooks and in the code:

# %%
sizes = {"B texts at once": B, "T tokens of each": T, "D numbers in a vector": D}
sizes |= {"H heads of attention": config.num_heads, "K numbers in a head": D // config.num_heads}
sizes |= {"V tokens of the vocabulary": V, "L layers, or blocks": config.num_layers}
for name, number in sizes.items():
    print(f"{name:<28}{number:>4}")

# %% [markdown]
# ## Tokens
#
# The tokenizer has read the stories and made a vocabulary of 512 pieces: bytes, and groups of bytes
# that are often neighbours. A piece has a number, its **id**. (Notebook 01)

# %%
print([tokenizer.decode([token]) for token in ids])
print(ids)
assert tokenizer.decode(ids) == SENTENCE

# %% [markdown]
# All stories in one row are cut into windows of T tokens. What is to be guessed are the same
# tokens, one place further on: the **targets**. (Notebook 02)

# %%
batch = windows.batch(first=0, batch_size=B, seed=0)
print("inputs ", batch.inputs.shape, batch.inputs[0, :8])
print("targets", batch.targets.shape, batch.targets[0, :8])

# %% [markdown]
# ## Vectors
#
# Each id has a row of D numbers, and each place one too; the two are added. At first all are
# random; training will change them. (Notebook 03)

# %%
init_params = jax.jit(jaxgpt.init_params, static_argnums=0)
params = init_params(config, jax.random.key(0))
tokens = jnp.array([ids])
tables = params["embed"]
x = jaxgpt.embed(tokens, tokens_table=tables["tokens"], positions_table=tables["positions"])
same(x, tables["tokens"][tokens] + tables["positions"][: len(ids)])
print(tokens.shape, "->", x.shape)

# %% [markdown]
# ## Attention
#
# In **attention** each token looks at those before it, and takes from each a share. The shares are
# computed from the vectors, and sum to 1. Before training they are nearly equal: nothing is known
# yet about who matters to whom. (Notebook 04)

# %%
found = jaxgpt.activations(GPT(config, params), tokens, ["blocks.0.attn.weights"])
weights = found["blocks.0.attn.weights"][0, 0]
same(weights.sum(-1), jnp.ones(len(ids)))
pieces = [repr(tokenizer.decode([token])) for token in ids]
figure, axes = figures.new(6.8, 6.0)
hidden = ~np.tril(np.ones(weights.shape, bool))
figures.matrix(axes, weights, "shares, before training", pieces, pieces, hidden=hidden)
axes.set(xlabel="is looked at", ylabel="looks")
figures.show(
    figure,
    "A lower triangle of shares for the pieces of the sentence: the first looks at itself alone, "
    "each later one nearly equally at all up to itself, and none at what comes after it.",
)

# %% [markdown]
# ## The model
#
# Attention, and then a small network for each token by itself, make a **block**; here there are two
# in a row. At the end each token has V numbers, its **logits**: a score for everything that could
# come next. (Notebook 05)

# %%
logits = GPT(config, params)(tokens)
print(tokens.shape, "->", logits.shape, f"by {size:,} parameters")

# %% [markdown]
# Scores become probabilities by **softmax**: raise e to each, and divide by the sum. In `logits` of
# shape (T, V), the last row tells what comes next. Yours to build (exercise 00.2, 6 minutes,
# difficulty 1): `probability(logits, token)`, the probability that `token` comes next. The check
# also tries scores as large as 10,000, and e to that power is no number of a computer's.

# %%
answer = ...  # def probability(logits, token): ...  and then: answer = probability

# %%
check("00.2", answer)

# %% [markdown]
# ## Pretraining
#
# How wrong is a guess? Take the probability that the model gave to the token that did come. Minus
# its natural logarithm is the **loss**. It is 0 for one who was sure, and large for one who
# is surprised. **Predict** (exercise 00.1, 2 minutes, difficulty 1): about which loss has a model
# that finds all V = 512 tokens equally likely?

# %%
answer = ...

# %%
check("00.1", answer)

# %% [markdown]
# A **step** of training takes a batch, computes the loss, and from it the **gradient**: for each
# parameter, how the loss would change with it. Then each parameter moves a little against its
# gradient. That is all. A hundred times, with windows in random order. (Notebook 06)

# %%
steps = 100
recipe = replace(preset.optimizer, learning_rate=1e-2, warmup_steps=50)
optimizer = jaxgpt.make_optimizer(recipe, steps)
loss = jaxgpt.next_token_loss(config)
step = jax.jit(partial(jaxgpt.train_step, key=jax.random.key(0), loss_fn=loss, optimizer=optimizer))
state, losses = jaxgpt.init_state(params, optimizer), []
for number in range(steps):
    batch = windows.batch(first=number * B, batch_size=B, seed=0)
    state, measured = step(state, (batch.inputs, batch.targets), number)
    losses.append(float(measured["loss"]))
trained = state.params
print(f"loss {losses[0]:.2f} before the first step, {losses[-1]:.2f} in the last")

# %% [markdown]
# Two lines say what the numbers mean. Above: one who knows nothing. Below: one who knows the
# program that wrote the stories. What it draws at random nobody can foretell, so that on new
# stories no model comes below. That is the **entropy** of the text, and here it is known exactly.

# %%
nothing = math.log(V)
everything = sum(story.bits for story in stories) * math.log(2) / len(corpus)
figure, axes = figures.new(8, 3.6)
axes.plot(range(1, steps + 1), losses, color=figures.SECOND, label="the model")
axes.axhline(nothing, color=figures.INK, ls=":", label=f"knows nothing: {nothing:.2f}")
axes.axhline(everything, color=figures.LIT, ls="--", label=f"knows all: {everything:.2f}")
axes.set(xlabel="step of training", ylabel="loss (nats per token)", ylim=(0, 7), xlim=(0, steps))
axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 0.12))
print(f"knows nothing {nothing:.2f}, knows all {everything:.2f}")
figures.show(
    figure,
    "Loss over 100 steps: it begins at the dotted line of one who knows nothing and falls, quickly "
    "at first, but stays far above the dashed line of one who knows all.",
)

# %% [markdown]
# ## Running it
#
# To write, let the model guess, draw a token by its probabilities, append it, and ask again.
# (Notebook 07) After a hundred steps it has learnt which pieces are frequent, and not much of
# what belongs together. To tell a story takes ten times as many, and the larger model of notebook
# 06.


# %%
def write(params, **options):
    model = PreparedModel(config, params, tokenizer)
    sampling = SamplingConfig(temperature=0.5)
    return "".join(jaxgpt.generate_text(model, "Once upon a time", sampling=sampling, **options))


for name, weights in (("before", params), ("after", trained)):
    print(f"{name:>6}: {write(weights, max_new_tokens=30)!r}")

# %%
prompt = jnp.array([tokenizer.encode(SENTENCE)])
figure, panels = figures.new(11, 3.4, columns=2, sharex=True)
for axes, name, weights in (
    (panels[0], "before training", params),
    (panels[1], "after 100 steps", trained),
):
    shares = np.asarray(jax.nn.softmax(GPT(config, weights)(prompt)[0, -1]))
    best = np.argsort(-shares)[:8]
    axes.barh(range(8), shares[best], color=figures.SECOND)
    axes.set_yticks(range(8), [ascii(tokenizer.decode([int(token)])) for token in best])
    axes.invert_yaxis()
    axes.set(title=name, xlabel="probability of the next token")
figures.show(
    figure,
    "The eight likeliest tokens after the sentence, before training and after: at first all are as "
    "unlikely as any other and of no kind; then beginnings of sentences stand in front.",
)

# %% [markdown]
# ## Fine-tuning
#
# What is learnt in pretraining serves other tasks. **Classification**: take the last vector of a
# text, and in place of the last matrix, which makes logits, one with a column for each class.
# (Notebook 09)

# %%
head = jaxgpt.init_linear(jax.random.key(1), D, 2)
last = GPT(config, trained).hidden(tokens)[:, -1]
classes = jaxgpt.classify(config, trained | {"head": head}, tokens, jnp.array([len(ids)]))
same(linear(last, **head), classes)
print(tokens.shape, "->", classes.shape, "a score for each of two classes")

# %% [markdown]
# **An assistant**: questions and answers are written as one text, by a **template**. The model goes
# on guessing next tokens, but only those of the answer count. Afterwards pairs of answers, of which
# people prefer one, teach it how to answer. (Notebook 10)

# %%
for piece in alpaca.render(turns):
    if piece.text:
        print(f"{piece.kind:>7}: {'...' if len(piece.text) > 70 else ''}{piece.text[-70:]!r}")
print(f"{len(row)} tokens, of which {learnt} are targets")
pair = preferences(0, seed=1)[0]
print("chosen:", repr(pair["chosen"]), "rejected:", repr(pair["rejected"]))

# %% [markdown]
# ## Find the bug
#
# `suspect_decode` turns ids into text, and the text is not the sentence. Is a token `"missing"`, is
# the `"order"` wrong, is the wrong row of the `"table"` read, are ids moved (`"shift"`), or are
# there other `"spaces"`? (Exercise 00.3, 3 minutes, difficulty 1.) Try it on fewer ids.

# %%
print(SENTENCE)
print(suspect_decode(tokenizer, ids))
answer = ...

# %%
check("00.3", answer)

# %% [markdown]
# ## In the library
#
# `help(jaxgpt)` lists the parts in the order of this notebook. What you did by hand, with
# checkpoints and measurements, is `jaxgpt.pretrain`, in `jaxgpt/training/pretrain.py`;
# `tests/training/test_pretrain.py` shows that a run that is stopped goes on as if it had not been.
# `python scripts/train.py tiny` is the same from a shell.
#
# ## What you know now
#
# - Text, tokens, vectors, attention, blocks, logits, a token, text: that is a language model.
# - Training changes random numbers until the next token surprises less; the entropy is the floor.
# - An assistant is the same model, trained on with answers and preferences.
#
# Next: 01, where the path begins with text.
