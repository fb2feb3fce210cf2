# %% [markdown]
# # 09 Classification
#
# **What you will build**: a classifier out of a GPT that is already trained. It reads a sentence
# and says which of four seasons it tells of. Since the sentences come from a known grammar, the
# best possible accuracy is known too, and you will see how near to it one comes. You need Python
# and arrays; of GPTs, that they turn tokens into vectors (notebooks 03 to 05). 25 minutes.

# %%
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxgpt
from course import book, check, figures, same
from course.exercises.classification import suspect_batch
from course.model import trained
from jaxgpt import class_loss, classify, cross_entropy, init_adapters, linear, make_optimizer, merge
from jaxgpt.data.stories import STORIES, tell_story
from jaxgpt.finetuning.classification import class_probabilities, classifier_params, pool, predict
from jaxgpt.finetuning.freezing import frozen_loss, join_params, split_params
from jaxgpt.finetuning.labelled import Labelled, collate, labelled_rows, read_labelled
from jaxgpt.finetuning.lora import lora_loss
from jaxgpt.finetuning.measures import accuracy, calibration_error, confusion_matrix, reliability
from jaxgpt.finetuning.settings import LORA_TARGETS, LoraConfig

np.set_printoptions(precision=4, suppress=True)
model = trained()
KEY = jax.random.key(0)

# %% [markdown]
# ## The path
#
# The path of a text is the one you know, up to the **logits**: the numbers that the last layer, the
# **head**, makes of a vector. There it changes. A GPT's head has a number for each token that may
# follow. A classifier's has one for each **class**, and its answer is the class, no text.

# %%
sentence = tell_story(0, seed=1).facts["outing"]
count = len(model.tokenizer.encode(sentence))
figures.path_strip(
    "logits",
    [
        *(sentence[:13] + "...", f"{count} tokens", f"({count}, {model.config.embed_dim})"),
        *(f"{model.config.num_heads} heads", f"{model.config.num_layers} blocks"),
        *("4 numbers", "a season", "none"),
    ],
)

# %% [markdown]
# ## A task whose truth is known
#
# **The idea in a breath.** To classify is to say which of a few classes a text belongs to. Texts to
# learn from have their class beside them, the **label**.
#
# The stories of this course come from a grammar. Each draws a season first, and never names it. The
# season decides the weather and the month. Here is the sentence of a story that tells of both, with
# the month blanked out. Which season was it?


# %%
def riddle(index, seed):
    """A sentence without its month, labelled with its season; and the weather that it names."""
    facts = tell_story(index, seed=seed).facts
    text = facts["outing"].replace(facts["month"], "____")
    return Labelled(text, facts["season"], f"story {index}"), facts["weather"]


training = [riddle(index, seed=1) for index in range(2048)]
testing = [riddle(index, seed=2) for index in range(1024)]
for riddled, _ in training[:4]:
    print(f"{riddled.label:>7}: {riddled.text}")

# %% [markdown]
# The model is trained on the first, the **training texts**, and measured on the second, the **test
# texts**, which it has never seen. **Accuracy** is the share of texts whose class it finds.
#
# A number says little without another beside it. The least that a classifier has to beat is one
# that does not read: it says the most frequent class every time. The season is drawn from an urn:

# %%
seasons = STORIES.choices["season"].urns[""]
SEASONS = list(seasons)
print("balls in the urn:", dict(seasons))

# %% [markdown]
# **Predict** (exercise 09.1, 1 minute, difficulty 1): which accuracy has a classifier that always
# says the largest class, over many texts? Give a share from 0 to 1.

# %%
answer = ...

# %%
check("09.1", answer)

# %% [markdown]
# ## The best that is possible
#
# **The idea in a breath.** Some weather leaves the season open: rain falls in spring and in autumn.
# No classifier can be right each time. The best one knows the urns, and says what is most probable.
#
# Take "rainy". How often is a story of spring and rainy? As often as the season is spring, times as
# often as spring is rainy. The same for autumn. Then share out: of all rainy stories, which part is
# spring's? That is **Bayes' rule**, and the shares are the **posterior**: P(season | weather), the
# probability of each season once the weather is known.

# %%
weathers = STORIES.choices["weather"].urns


def both(season, weather):
    """The probability that a story has this season and this weather."""
    urn = weathers[season]
    return seasons[season] / sum(seasons.values()) * urn.get(weather, 0) / sum(urn.values())


rainy = np.array([both(season, "rainy") for season in SEASONS])
print("both       ", dict(zip(SEASONS, rainy.round(4).tolist(), strict=True)))
print("P(. | rainy)", dict(zip(SEASONS, (rainy / rainy.sum()).round(4).tolist(), strict=True)))

# %% [markdown]
# So for every word. Whoever says the season of the largest posterior is right with the largest of
# the four probabilities. Added up over the words, that is the accuracy of the **Bayes-optimal
# classifier**. No other can have more, whatever it is made of: but for the weather, nothing in the
# text depends on the season.

# %%
WORDS = list(dict.fromkeys(word for urn in weathers.values() for word in urn))
table = np.array([[both(season, word) for season in SEASONS] for word in WORDS])
posterior = table / table.sum(axis=1, keepdims=True)
BEST, LARGEST = table.max(axis=1).sum(), max(seasons.values()) / sum(seasons.values())
truth = np.array([SEASONS.index(riddled.label) for riddled, _ in testing])
ideal = np.array([posterior[WORDS.index(word)] for _, word in testing])
print(f"Bayes-optimal, in the long run: {BEST:.4f}")
print(f"the same on our {len(testing)} test texts: {(ideal.argmax(axis=1) == truth).mean():.4f}")

# %%
figure, axes = figures.new(11, 2.9)
title = "P(season | weather), by the grammar"
figures.matrix(axes, posterior.T, title, SEASONS, WORDS, hidden=posterior.T == 0)
axes.set(xlabel="weather in the text", ylabel="season")
figures.show(
    figure,
    "Probability of each season for each of the words of weather: most words belong to one season "
    "alone, but rainy, misty, bright and stormy are shared by two.",
)

# %% [markdown]
# ## A head on one vector
#
# **The idea in a breath.** Take the GPT's head off, and put on a small one that makes one number
# for each class. All that is below it can read already, and is kept.
#
# Texts are of several lengths, and an array has one. So short ones are filled up at the right, with
# **padding**, and the true lengths stand beside them.

# %%
rows, held_out = (
    labelled_rows([text for text, _ in part], SEASONS, model.tokenizer, context_length=32)
    for part in (training, testing)
)
batch = next(rows.in_order(batch_size=4))
print("tokens", batch.tokens.shape, "lengths", batch.lengths, "labels", batch.labels)

# %% [markdown]
# Four texts go in, and each token of each has a vector of D numbers. Which of them stands for the
# text? The last real one has seen all the others, thanks to the causal mask. Then the head: a
# matrix (D, 4), drawn at random, and softmax makes probabilities of its four numbers.

# %%
base = classifier_params(model.params, num_classes=4, key=KEY)
hidden = jax.jit(lambda params, tokens: jaxgpt.GPT(model.config, params).hidden(tokens))
vectors = hidden(base, batch.tokens)
chosen = jnp.stack([row[n - 1] for row, n in zip(vectors, batch.lengths, strict=True)])
by_hand = chosen @ base["head"]["weight"] + base["head"]["bias"]
print("vectors", vectors.shape, "-> chosen", chosen.shape, "-> classes", by_hand.shape)
logits = classify(model.config, base, batch.tokens, batch.lengths)
same(by_hand, logits, atol=1e-5)
print(jax.nn.softmax(logits)[0], "is what an untrained head says of the first text")

# %% [markdown]
# ## Pooling: one vector of many
#
# **The idea in a breath.** To make one vector of all the vectors of a text is called **pooling**.
# The last one has seen the most; the first has seen only itself; the mean has a bit of each.
#
# By hand, on two texts, of 4 tokens and of 2. Padding is 99 here: it must not count.

# %%
x = jnp.array([[[1.0], [2.0], [3.0], [6.0]], [[10.0], [20.0], [99.0], [99.0]]])
lengths = jnp.array([4, 2])
by_hand = {"last": [[6.0], [20.0]], "first": [[1.0], [10.0]], "mean": [[3.0], [15.0]]}
for pooling, wanted in by_hand.items():
    same(wanted, pool(x, lengths, pooling))

# %% [markdown]
# Yours to build (exercise 09.2, 6 minutes, difficulty 2): `last(x, lengths)`, the vector of each
# text's last real token, of `x` (B, T, D) and `lengths` (B,). The check tries texts of one token,
# full rows, and vectors of zeros.

# %%
answer = ...  # def last(x, lengths): ...  and then: answer = last

# %%
check("09.2", answer)

# %% [markdown]
# ## Fine-tuning: a specific task
#
# **The idea in a breath.** To train a trained model further, on a task of its own, is
# **fine-tuning**. One need not change all of it: what is **frozen** stays as it is, and costs no
# gradient.
#
# One function trains whatever it is given, by the package's own step (notebook 06).


# %%
def train(ours, make_loss, frozen, batches, rate):
    """What `ours` becomes by one step for each batch, and the loss at each."""
    settings = jaxgpt.OptimizerConfig(learning_rate=rate, warmup_steps=5)
    optimizer = make_optimizer(settings, len(batches))

    @jax.jit
    def step(frozen, state, batch, number):
        loss = make_loss(frozen)
        return jaxgpt.train_step(state, batch, number, key=KEY, loss_fn=loss, optimizer=optimizer)

    state, losses = jaxgpt.init_state(ours, optimizer), []
    for number, batch in enumerate(batches):
        state, metrics = step(frozen, state, batch, np.int32(number))
        losses.append(float(metrics["loss"]))
    return state.params, losses


# %% [markdown]
# **The head alone.** With all else frozen, the vectors never change. So compute them once, for all
# texts; what is left is a head of a few hundred numbers, and each of its steps can take all texts
# at once. Which pooling is best, where the model has not been tuned?

# %%
STEPS = 256
every, apart = (next(part.in_order(len(part))) for part in (rows, held_out))
seen, unseen = hidden(base, every.tokens), hidden(base, apart.tokens)


def head_loss(head, batch, rng):
    return cross_entropy(linear(batch[0], **head), batch[1])


heads, curves = {}, {}
for pooling in ("first", "last", "mean"):
    pooled = (pool(seen, every.lengths, pooling), every.labels)
    heads[pooling], losses = train(base["head"], lambda _: head_loss, {}, [pooled] * STEPS, 3e-2)
    guesses = linear(pool(unseen, apart.lengths, pooling), **heads[pooling]).argmax(axis=1)
    print(f"head on the {pooling:>5} vector: accuracy {(guesses == truth).mean():.3f}")
curves["head alone"] = losses  # of the mean
base = base | {"head": heads["mean"]}
tuned = {"head alone": base}

# %% [markdown]
# The first token is the same in many texts: nothing can be learnt from it. The last has seen all,
# and still a head finds little in it. For this GPT has learnt one thing, to guess the next token,
# and after this sentence the story goes on to a basket: the weather is of no use any more. What it
# has no use for, it does not carry along. The mean holds more, as the word of weather has its own
# vector in it. We go on with the mean, and with its head: what follows begins from there, as a
# random head would send random errors to the blocks below.
#
# **The last block.** Then the vectors themselves can change. `split_params` parts a model into what
# is trained and what is frozen; `join_params` puts it together again.

# %%
minibatches = [tuple(rows.batch(16 * number, 16, seed=0)) for number in range(STEPS)]
loss = class_loss(model.config, pooling="mean")
ours, frozen = split_params(base, 1)
print("trained:", sorted(ours), "blocks", ours["blocks"]["norm1"]["scale"].shape[0])
print("frozen:", sorted(frozen), "blocks", frozen["blocks"]["norm1"]["scale"].shape[0])
ours, curves["last block"] = train(ours, partial(frozen_loss, loss), frozen, minibatches, 2e-3)
tuned["last block"] = join_params(ours, frozen)

# %% [markdown]
# **Low-rank adapters** (LoRA) reach every block with few numbers. Each matrix W stays as it is, and
# beside it stand two thin ones, A (D, r) and B (r, D): the model computes with W + s A B, where s
# is a constant. The **rank** r is small, 8 here. A is random and B is 0, so at first nothing is
# changed.

# %%
thin = LoraConfig(rank=8, alpha=16.0, targets=LORA_TARGETS)
adapters = init_adapters(base, thin, KEY)
A, B = (adapters["query"][name][0] for name in ("A", "B"))
print("A", A.shape, "B", B.shape, "in place of", (A @ B).shape)
before, after = (
    classify(model.config, params, batch.tokens, batch.lengths, pooling="mean")
    for params in (base, merge(base, adapters, thin))
)
same(after, before)


def adapted_loss(frozen):
    return lora_loss(loss, frozen, thin)


adapters, curves["LoRA"] = train(adapters, adapted_loss, base, minibatches, 4e-3)
tuned["LoRA"] = merge(base, adapters, thin)
change = tuned["LoRA"]["blocks"]["mlp"]["up"]["weight"] - base["blocks"]["mlp"]["up"]["weight"]
print("rank of what was added to a matrix", change[0].shape, "is", np.linalg.matrix_rank(change[0]))

# %% [markdown]
# **All** parameters, last: nothing is frozen.

# %%
tuned["all"], curves["all"] = train(base, lambda _: loss, {}, minibatches, 1e-3)

# %% [markdown]
# ## Accuracy beside the possible
#
# Two lines make the numbers speak: that of whoever never reads, and that of Bayes. The right panel
# shows the loss in training. Over many texts it cannot fall below the mean surprise of one who
# knows the urns: the **entropy** of the season, given the weather.

# %%
probabilities = jax.jit(class_probabilities(model.config, pooling="mean"))
given = {kind: predict(probabilities, params, [apart])[1] for kind, params in tuned.items()}
sizes = {"head alone": base["head"], "last block": ours, "LoRA": adapters, "all": base}
scores = {}
print(f"{'trained':>12} {'numbers':>9} {'accuracy':>9} {'as Bayes says':>14}")
for kind, guessed in given.items():
    best = guessed.argmax(axis=1)
    confusion = confusion_matrix(truth, best, len(SEASONS))
    scores[kind] = accuracy(confusion)
    assert scores[kind] == (best == truth).mean() == np.trace(confusion) / len(truth)
    number = sum(leaf.size for leaf in jax.tree.leaves(sizes[kind]))
    agreed = (best == ideal.argmax(axis=1)).mean()
    print(f"{kind:>12} {number:>9,} {scores[kind]:>9.3f} {agreed:>14.3f}")
assert scores["head alone"] < scores["last block"] < min(scores["LoRA"], scores["all"])
assert min(scores["LoRA"], scores["all"]) > 0.8

# %%
floor = -(table * np.log(np.where(table > 0, posterior, 1))).sum()
figure, (bars, lines) = figures.new(11, 3.9, columns=2)
bars.barh(list(scores), list(scores.values()), color=figures.SECOND, height=0.55)
bars.axvline(LARGEST, color=figures.INK, ls=":", label=f"always {max(seasons, key=seasons.get)}")
bars.axvline(BEST, color=figures.LIT, ls="--", label="Bayes-optimal")
here = (ideal.argmax(axis=1) == truth).mean()
bars.axvline(here, color=figures.LIT, lw=1, label="on these texts")
bars.set(xlabel="accuracy on test texts (share)", ylabel="what is trained", xlim=(0, 1))
bars.invert_yaxis()
bars.legend(frameon=False, ncols=3, fontsize=9, loc="lower center", bbox_to_anchor=(0.45, 1))
for (kind, curve), style in zip(curves.items(), (":", "-.", "-", "--"), strict=True):
    smooth = np.convolve(curve, np.ones(16) / 16, mode="valid")
    lines.plot(np.arange(16, STEPS + 1), smooth, style, color=figures.INK, label=kind)
lines.axhline(floor, color=figures.LIT, lw=1)
lines.text(20, floor - 0.02, "the least that is possible", color=figures.LIT, va="top")
lines.set(xlabel="step", ylabel="loss, mean of 16 steps\n(nats per text)", ylim=(0, 3))
lines.legend(frameon=False, ncols=2, loc="upper right")
figures.show(
    figure,
    "Left, bars: accuracy by what is trained, from the head alone over the last block to LoRA and "
    "all, with lines at the largest class and at Bayes. Right: their losses against the step.",
)

# %% [markdown]
# The more blocks can change, the more is found. The head cannot find what the vectors do not hold,
# and the last block cannot fetch what those below it have let go of. LoRA has fewer numbers than
# the last block, and reaches all of them: it is not how many numbers are trained that counts here,
# but where.
#
# Which classes are mistaken for which? The **confusion matrix** has a row for each true class and a
# column for each answer. A classifier is good if its mistakes are those of Bayes.

# %%
figure, panels = figures.new(11, 4.6, columns=2)
for axes, (name, shares) in zip(panels, [("LoRA", given["LoRA"]), ("Bayes", ideal)], strict=True):
    counts = confusion_matrix(truth, shares.argmax(axis=1), len(SEASONS))
    figures.matrix(axes, counts, f"{name}: test texts", SEASONS, SEASONS, digits=0)
    axes.set(xlabel="answer", ylabel="true season")
figures.show(
    figure,
    "Two confusion matrices, true season by answer, of the LoRA classifier and of the "
    "Bayes-optimal one: similar numbers on the diagonal, and beside it mistakes "
    "between the same seasons but for one pair.",
)

# %% [markdown]
# ## Calibration: how sure, and how often right
#
# **The idea in a breath.** A classifier also says how sure it is. It is **calibrated** if, of the
# texts where it is sure to 80 %, it is right on 80 %. To see that, put the texts in bins by its
# highest probability, and compare each bin's mean with its accuracy.
#
# Most datasets allow no more. Here the truth is known word by word: for words of weather, the
# mean probability that the classifier gives to a season stands beside that of the grammar.

# %%
names = [word for _, word in testing]
answers = given["LoRA"]
counts, sure, right = reliability(truth, answers)
for kind, shares in {**given, "Bayes": ideal}.items():
    print(f"{kind:>12}: calibration error {calibration_error(truth, shares):.3f}")

# %%
figure, (bins, words) = figures.new(11, 4.4, columns=2)
some = counts > 0
bins.plot([0, 1], [0, 1], ":", color=figures.INK, label="as sure as right")
bins.scatter(sure[some], right[some], s=20 + counts[some], color=figures.SECOND)
bins.plot([], [], "o", color=figures.SECOND, label="LoRA: the more texts, the larger")
bins.set(xlabel="probability of its answer, mean of a bin", ylabel="share that is right")
shifts = {"rainy": (8, -4), "misty": (8, -4), "stormy": (-48, -4), "bright": (8, -4)}
for word in ("rainy", "bright", "misty", "stormy", "snowy"):
    mine = answers[[name == word for name in names]].mean(axis=0)
    likely = posterior[WORDS.index(word)].argmax()
    place = (posterior[WORDS.index(word), likely], mine[likely])
    words.plot(*place, "o", color=figures.SECOND)
    words.annotate(word, place, shifts.get(word, (7, -11)), textcoords="offset points")
words.plot([0, 1], [0, 1], ":", color=figures.INK)
words.set(xlabel="P(likeliest season | weather), grammar", ylabel="probability given by LoRA")
bins.set(xlim=(0, 1.05), ylim=(0, 1.08))
words.set(xlim=(0.4, 1.12), ylim=(0.4, 1.08))
bins.legend(frameon=False, loc="upper left")
figures.show(
    figure,
    "Left: the share of right answers against how sure the classifier is, in bins, beside a "
    "diagonal where the two are equal. Right: for five words the probability given to the "
    "likeliest season against the grammar's.",
)

# %% [markdown]
# In the left panel, a point below the diagonal is surer than right; in the right one, a point above
# it. Of "snowy" the classifier is nearly sure, and of words that two seasons share it is less sure:
# of some still too sure. Accuracy alone would not tell one who is unsure with good cause from one
# who is sure without.
#
# ## The vectors, before and after
#
# What has tuning done to the vectors? Each has D numbers; the two directions in which they differ
# most can be drawn (the first two **principal axes**). The grammar has three forms for this
# sentence: "On ____ 20, a ...", "One ...", and "They ...". What will the vectors show before?

# %%
figure, panels = figures.new(11, 4.4, columns=2)
for axes, kind in zip(panels, ("head alone", "all"), strict=True):
    means = np.asarray(pool(hidden(tuned[kind], apart.tokens), apart.lengths, "mean"))
    centred = means - means.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    flat = centred @ directions[:2].T
    for number, (season, marker) in enumerate(zip(SEASONS, "o^sx", strict=True)):
        color = (figures.SECOND, figures.LIT, figures.QUIET, figures.INK)[number]
        axes.scatter(*flat[truth == number].T, s=16, marker=marker, color=color, label=season)
    axes.set(xlabel="first axis (no unit)", ylabel="second axis")
    axes.set_title("before" if kind == "head alone" else "after, where all is tuned", fontsize=11)
panels[0].legend(frameon=False, fontsize=9, loc="center")
figures.show(
    figure,
    "The mean vectors of the test texts in two axes. Before tuning there are three groups, one "
    "for each form of the sentence, and in each all seasons are mixed; after it, "
    "texts of one season lie near each other.",
)

# %% [markdown]
# Before, the three forms: how a sentence begins matters to whoever guesses tokens. After, texts of
# one season lie near each other, and a head needs only to draw lines between them. Some lie over
# others here, since four groups need more than two axes; and where two seasons share a word, no
# line can part their texts.
#
# ## At real size
#
# GPT-2's smallest model with a head for two classes, such as wanted and unwanted mail, and adapters
# of rank 16 beside every matrix: that is the book's own. The gradient is of the adapters alone, and
# nothing frozen has one. No number is computed here, only shapes.

# %%
gpt2 = jaxgpt.get_preset("gpt2").model
shapes = jaxgpt.parameter_shapes(gpt2)
whole = jax.eval_shape(partial(classifier_params, num_classes=2), shapes, key=KEY)
wide = LoraConfig(rank=16, alpha=16.0, targets=LORA_TARGETS)
thin_gpt2 = jax.eval_shape(partial(init_adapters, config=wide), whole, key=KEY)
texts = (np.zeros((1, 8), np.int32), np.array([8]), np.array([1]))


def gradient(base, adapters):
    of_adapters = lora_loss(class_loss(gpt2), base, wide)
    return jax.grad(lambda adapters: of_adapters(adapters, texts, None)[0])(adapters)


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


trained_gpt2 = size(jax.eval_shape(gradient, whole, thin_gpt2))
numbers = {"total": size(whole), "frozen_trainable": trained_gpt2 - size(thin_gpt2)}
numbers["lora_r16"] = size(thin_gpt2)
print(numbers, f"adapters are {size(thin_gpt2) / size(whole):.1%}")
book("appE.params", numbers)
book("ch06.prompt_ids", jaxgpt.load_tokenizer("gpt2").encode("Do you have time"))

# %% [markdown]
# Any file of labelled texts will do. The book's messages, wanted and not, are not part of this
# repository: `JAXGPT_SMS` may name the file, with a label, a tab and a text in each line.

# %%
if file := os.environ.get("JAXGPT_SMS"):
    short = [text for text in read_labelled([file]) if len(model.tokenizer.encode(text.text)) <= 64]
    names = sorted({text.label for text in short})
    mail = labelled_rows(short[512:], names, model.tokenizer, context_length=64)
    apart_mail = labelled_rows(short[:512], names, model.tokenizer, context_length=64)
    mail_base = classifier_params(model.params, len(names), KEY)
    some = [tuple(mail.batch(16 * number, 16, seed=0)) for number in range(STEPS)]
    adapters = init_adapters(mail_base, thin, KEY)
    adapters, _ = train(adapters, adapted_loss, mail_base, some, 4e-3)
    labels, shares = predict(
        probabilities, merge(mail_base, adapters, thin), apart_mail.in_order(64)
    )
    largest = np.bincount(labels).max() / len(labels)
    right = (shares.argmax(axis=1) == labels).mean()
    print(f"{names}: accuracy {right:.3f}, always the largest class {largest:.3f}")
else:
    print("left out: JAXGPT_SMS names no file of labelled messages")

# %% [markdown]
# ## Find the bug
#
# `suspect_batch(examples)` makes a batch of examples, as `collate` does, with one error. The
# classifier is the same, and its accuracy falls. Are the `"labels"` wrong, are the `"lengths"`, are
# texts `"cut"`, is their `"order"` another than that of the labels, or is it the `"padding"`?
# (Exercise 09.3, 6 minutes, difficulty 2.) Look at `batch.tokens` too.

# %%
examples = held_out.examples  # (tokens, class) of each test text
batch = suspect_batch(examples)
for name, made in (("collate", collate(examples, padding=0, widths=[32])), ("suspect", batch)):
    labels, shares = predict(probabilities, tuned["LoRA"], [made])
    print(f"{name}: accuracy {accuracy(confusion_matrix(labels, shares.argmax(axis=1), 4)):.2f}")
print(batch.lengths[:8], batch.labels[:8], [len(tokens) for tokens, _ in examples[:8]])
answer = ...

# %%
check("09.3", answer)

# %% [markdown]
# ## In the library
#
# The head and the poolings are in `jaxgpt/finetuning/classification.py`, what is frozen in
# `freezing.py`, adapters in `lora.py`, confusion and calibration in `measures.py`.
# `tests/finetuning/test_classification.py` shows that padding changes nothing and that frozen
# parameters stay to the bit, `test_lora.py` that new adapters change nothing.
# `scripts/finetune_classifier.py` does all of it from a file of texts.
#
# ## What you know now
#
# - A classifier is a GPT with another head, on one vector made of many.
# - A head finds what the vectors hold; to put more into them, more than the head has to be trained.
# - Accuracy stands between the largest class and the best possible; calibration is more than both.
#
# Next: 10, where a model learns to answer.
