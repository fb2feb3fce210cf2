# %% [markdown]
# # 10 Instructions and preferences
#
# **What you will build**: an assistant. A model that tells stories learns to answer a question
# about them, then in which form to answer, and you talk with it. You need Python, arrays and the
# notebooks before. 30 minutes.

# %%
import textwrap
from dataclasses import replace
from functools import partial
from random import Random

import jax
import jax.numpy as jnp
import numpy as np

import jaxgpt
from course import book, check, figures, same
from course.exercises.instructions import suspect
from course.model import trained
from jaxgpt import GPT, TEMPLATES, Chat, OptimizerConfig, Turn, cross_entropy
from jaxgpt.assistant.chat_config import ChatConfig
from jaxgpt.data.batches import IGNORE
from jaxgpt.data.story_questions import questions
from jaxgpt.finetuning.instructions import collate, conversation, encode_conversation, token_row
from jaxgpt.finetuning.lora import lora_loss
from jaxgpt.finetuning.packing import collate_packed
from jaxgpt.finetuning.pairs import collate_pairs, encode_preference, preference
from jaxgpt.finetuning.preferences import Pairs, pair_likelihood, preference_sums
from jaxgpt.finetuning.records import Record
from jaxgpt.finetuning.settings import LORA_TARGETS, LoraConfig, PreferenceConfig
from jaxgpt.training.loss import next_token_loss

# %% [markdown]
# ## The path
#
# Nothing between the two ends is new: the same model reads a text and writes one. New is what the
# text at the left looks like, and which text at the right it learns to write.

# %%
template = TEMPLATES["chat"]
model = jaxgpt.grow_vocabulary(trained(), template.special_tokens)
config, tokenizer, base = model.config, model.tokenizer, model.params
question = questions(0, seed=4)[0]
prompt_length = len(tokenizer.encode(question.prompt))
figures.path_strip(
    "text",
    [
        *("a question", f"{prompt_length} of them", f"{config.embed_dim} wide"),
        *(f"{config.num_heads} heads", f"{config.num_layers} blocks"),
        *(f"{config.vocab_size:,} each", "the likeliest", "an answer"),
    ],
)
print(textwrap.fill(question.prompt, 95))

# %% [markdown]
# ## Fine-tuning: general instructions
#
# **The idea in a breath.** A GPT can do one thing: go on with a text. So write a question as a text
# that goes on with its answer, and train on such texts, as before. That is **fine-tuning**:
# training that begins with a trained model.
#
# A **record** is one example: who says what. A **template** makes one text of it, by **markers**
# that stand before and after each part. In this one, as in ChatGPT's, a part begins with
# `<|im_start|>` and the name of who speaks: the **system** (standing orders), the user, or the
# assistant.

# %%
record = {
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Leo met a crab. Who is the hero?"},
        {"role": "assistant", "content": "It is Leo."},
    ]
}
turns = conversation(Record(record, "the first record")).turns
for piece in template.render(turns):
    print(f"{piece.kind:>7} {piece.text!r}")

# %% [markdown]
# `<|im_start|>` is one token with an id of its own, which no user's text is ever encoded to: a user
# who types it gets its letters. Were it plain text, a user could write an answer in the assistant's
# name. Our model had no such ids, so `grow_vocabulary` gave it two, with new rows in its tables.

# %%
marker = "<|im_start|>"
print("as a marker   ", tokenizer.encode(marker, allow_special=True))
print("typed by a user", tokenizer.encode(marker))

# %% [markdown]
# What is to be learnt? Not the question: users write those. The answer alone, and after it the
# **end-of-text** token, by which a model says that it has finished. All other targets are set to
# `IGNORE`, which no loss counts. This is the **loss mask**. `encode_conversation` makes the row.

# %%
row = encode_conversation(turns, template, tokenizer)
ids = [*row.inputs.tolist(), int(row.targets[-1])]
pieces = list(template.render(turns))
encoded = [tokenizer.encode(piece.text, allow_special=piece.kind == "marker") for piece in pieces]
speakers = iter(turns)
kinds = [piece.kind if piece.kind == "marker" else next(speakers).role for piece in pieces]
lengths = [len(part) + (kind == "assistant") for part, kind in zip(encoded, kinds, strict=True)]
kinds = np.repeat(kinds, lengths).tolist()
print(len(row), "inputs, of which", (row.targets != IGNORE).sum(), "have a target that counts")
print("targets", row.targets)

# %%
LOOKS = {"marker": ("0.8", ""), "system": ("0.92", ""), "user": ("white", "")}
LOOKS |= {"assistant": (figures.LIT, ""), "padding": ("white", "////")}
LINE, lines = 16, 3
padded = collate([row], padding=tokenizer.end_of_text, widths=[LINE * lines])
figure, panels = figures.new(11, 5.2, rows=lines)
for line, axes in enumerate(panels):
    axes.set(xlim=(-1.4, LINE), ylim=(-1.0, 1.05))
    axes.axis("off")
    axes.text(-0.1, 0.5, "input", ha="right", va="center", fontsize=9)
    axes.text(-0.1, -0.5, "target", ha="right", va="center", fontsize=9)
    for column in range(LINE):
        place = line * LINE + column
        kind = kinds[place] if place < len(row) else "padding"
        color, hatch = LOOKS[kind]
        axes.bar(column + 0.5, 0.9, 0.94, 0.05, color=color, hatch=hatch, edgecolor=figures.INK)
        ink = "white" if kind == "assistant" else figures.INK
        shown = repr(tokenizer.decode([int(padded.inputs[0, place])]))[1:-1].replace(" ", "\u2423")
        shown = "" if kind == "padding" else shown.replace("<|", "").replace("|>", "")
        target = int(padded.targets[0, place])
        wanted = "-" if target == IGNORE else tokenizer.decode([target]).replace(" ", "\u2423")
        axes.text(column + 0.5, 0.5, shown, ha="center", va="center", fontsize=8.5, color=ink)
        axes.text(column + 0.5, -0.5, wanted.strip("<|>"), ha="center", va="center", fontsize=9)

# %%
for name, (color, hatch) in LOOKS.items():
    panels[0].bar(-9, 1, color=color, hatch=hatch, edgecolor=figures.INK, label=name)
figure.legend(
    *panels[0].get_legend_handles_labels(), ncols=5, frameon=False, loc="outside upper center"
)
figures.show(
    figure,
    "A conversation as three lines of boxes, a token each, marked by who wrote it: template, "
    "system, user, assistant, padding. Below each its target: a dash but for the place before "
    "each token of the answer, and before its end-of-text token.",
)

# %% [markdown]
# Yours to build (exercise 10.1, 12 minutes, difficulty 3): `answer_targets(pieces, end)`. `pieces`
# are pairs of a kind (`"marker"`, `"said"` or `"answer"`) and a list of ids, in order; `end` is the
# id of end-of-text. Return the targets: one fewer than there are tokens, with `IGNORE` where
# nothing is learnt. The check tries a chat of two questions, empty answers, and no answer at all.

# %%
answer = ...  # def answer_targets(pieces, end): ...  and then: answer = answer_targets

# %%
check("10.1", answer)

# %% [markdown]
# ## Padding and packing
#
# **The idea in a breath.** Rows of a batch have one length, and texts have many. Either fill up the
# short ones (**padding**), or put several into one row (**packing**). Neither may change the loss.
#
# Padding has no targets, and no token looks at what comes after it. The book's three rows, and its
# three losses: of two targets, of three, and of three of which one is ignored.

# %%
LISTS = [0, 1, 2, 3, 4], [5, 6], [7, 8, 9]
batch = collate([token_row([*ids, 50256]) for ids in LISTS], padding=50256)
book("ch07.collate.inputs", batch.inputs)
book("ch07.collate.targets", batch.targets)
logits = jnp.array([[-1.0, 1.0], [-0.5, 1.5], [-0.5, 1.5]])
losses = []
for targets in ([0, 1], [0, 1, 1], [0, 1, IGNORE]):
    nats, counted = cross_entropy(logits[: len(targets)], jnp.array(targets))
    losses.append(nats / counted)
book("ch07.ce", losses)

# %% [markdown]
# Packed texts lie in one row, so the causal mask alone would let a text look at the one before it.
# So each token carries the number of its text, its **segment**, and looks at its own segment only.
# Positions begin anew in each.

# %%
texts = [token_row([*ids, tokenizer.end_of_text]) for ids in LISTS]
packed = collate_packed([texts], width=12, padding=0)
causal = np.tril(np.ones((12, 12), bool))
own = packed.segments[0][:, None] == packed.segments[0]
names = [str(token) for token in packed.inputs[0][:10]] + ["pad", "pad"]
figure, panels = figures.new(11, 5.0, columns=2)
figures.matrix(panels[0], causal, "causal alone", names, names, digits=0, hidden=~causal)
figures.matrix(
    panels[1], causal & own, "and within one text", names, names, digits=0, hidden=~(causal & own)
)
for axes in panels:
    axes.set(xlabel="token that is looked at", ylabel="token that looks")
figures.show(
    figure,
    "Two masks of a row of twelve tokens, of three texts and padding. Causal alone, a triangle of "
    "ones; within one text, small triangles along the diagonal, a block for each text.",
)

# %%
loss_fn = jax.jit(next_token_loss(config))


def loss_of(batch):
    return loss_fn(base, tuple(batch), None)  # summed in nats, and the number of targets


alone = sum(loss_of(collate([text], padding=0))[0] for text in texts)
same(alone, loss_of(collate(texts, padding=0))[0])
same(alone, loss_of(packed)[0])
whole = encode_conversation(turns, template, tokenizer, mask_prompt=False)
for name, learnt in (("answer alone", row), ("prompt as well", whole)):
    nats, counted = loss_of(collate([learnt], padding=0))
    print(f"{name:>14}: {counted:2} targets, {nats / counted:.2f} nats each")

# %% [markdown]
# ## Supervised fine-tuning
#
# **The idea in a breath.** Show the model questions with right answers, and take steps of training,
# as in notebook 06. This is **supervised fine-tuning**, SFT.
#
# The grammar of the stories knows each hero, so we can make any number of questions. An answer has
# two right forms, and a coin decides: "The hero is Leo." one time in three, else "It is Leo."


# %%
SENTENCES = 0.35  # share of answers in the longer form


def forms(question):
    return question.sentence, f"It is {question.short}."


def record_of(story, coin):
    first, again = (questions(number, seed=1)[0] for number in (story, story + 1))
    messages = []
    for text in (first.prompt, again.text):  # the story once, and two questions about it
        form = forms(first)[0 if coin.random() < SENTENCES else 1]
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": form}]
    return {"messages": messages}


STEPS, ROWS, WIDTH = 80, 16, 176
coin = Random(0)
records = [Record(record_of(story, coin), f"record {story}") for story in range(STEPS * ROWS)]
rows = [encode_conversation(conversation(r).turns, template, tokenizer) for r in records]
batches = [
    tuple(collate(rows[step * ROWS : (step + 1) * ROWS], padding=0, widths=[WIDTH]))
    for step in range(STEPS)
]
print(len(rows), "conversations, the longest of", max(map(len, rows)), "tokens")

# %% [markdown]
# Held out are stories that no training saw. **Exact match** is the share of answers that are,
# letter by letter, one of the right ones. What does the model say before?

# %%
held_out = [questions(story, seed=4)[0] for story in range(32)]
prompts = [(Turn("user", question.prompt),) for question in held_out]


def answers_of(params):
    tuned = replace(model, params=params)
    return jaxgpt.write_answers(tuned, prompts, template, max_new_tokens=10)


def shares(params):
    """Exact match with "The hero is Leo." and with "It is Leo.", for each story's own hero."""
    answers = answers_of(params)
    wanted = zip(*map(forms, held_out), strict=True)
    return np.array([jaxgpt.exact_match(answers, references) for references in wanted])


stages = {"pretrained": shares(base)}
assert stages["pretrained"].sum() <= 0.05
print(held_out[0].text, "->", answers_of(base)[0])

# %% [markdown]
# It goes on with a story, as it was taught. Now train. No model can know how the coin falls, so no
# answer can cost less than the coin's entropy: that is the floor.


# %%
def train(step_fn, optimizer, params, batches):
    state, losses = jaxgpt.init_state(params, optimizer), []
    for number, batch in enumerate(batches):
        state, metrics = step_fn(state, batch, np.int32(number))
        losses.append(float(metrics["loss"]))
    return state.params, losses


def compiled(loss_fn, optimizer):
    step = partial(jaxgpt.train_step, key=jax.random.key(0), loss_fn=loss_fn, optimizer=optimizer)
    return jax.jit(step)


# %%
adam = jaxgpt.make_optimizer(
    OptimizerConfig(learning_rate=3e-3, warmup_steps=20, beta2=0.99), STEPS
)
sft_step = compiled(loss_fn, adam)
tuned, losses = train(sft_step, adam, base, batches)
stages["instructions"] = shares(tuned)
entropy = -(SENTENCES * np.log(SENTENCES) + (1 - SENTENCES) * np.log(1 - SENTENCES))
floor = entropy * 2 * len(rows) / sum((row.targets != IGNORE).sum() for row in rows)
print(held_out[0].text, "->", answers_of(tuned)[0])
print(
    f"exact match {stages['instructions'].sum():.0%}; last loss {losses[-1]:.3f}, floor {floor:.3f}"
)
assert stages["instructions"].sum() >= 0.6 and stages["instructions"][0] <= 0.2

# %%
figure, axes = figures.new(8, 3.4)
axes.plot(range(1, STEPS + 1), losses, color=figures.SECOND, label="loss of the answers")
axes.axhline(floor, color=figures.INK, ls=":", label="entropy of the coin")
axes.set(xlabel="step", ylabel="loss (nats per target)", yscale="log")
axes.yaxis.set_major_formatter(lambda loss, _: f"{loss:g}")
axes.yaxis.set_minor_formatter("")
axes.legend(frameon=False)
figures.show(
    figure,
    "Loss of the answers by step on a logarithmic axis: it falls from above ten nats towards the "
    "dotted floor, the entropy of the coin that chooses the form of each answer.",
)

# %% [markdown]
# ## Preferences (DPO)
#
# **The idea in a breath.** Both forms are right, and we like whole sentences better. So show pairs
# of answers, one **chosen** and one **rejected**, and make the chosen one likelier. This is
# **direct preference optimization**, DPO.
#
# How far may a model go? A copy of it from before, the **reference**, tells. An answer's **reward**
# is `beta` times how much likelier the model finds it than the reference does, in nats. The loss is
# `-log(sigmoid(reward of chosen - reward of rejected))`, where `sigmoid(z)` is `1 / (1 + exp(-z))`:
# the probability with which the chosen one wins.
#
# **Predict** (exercise 10.2, 3 minutes, difficulty 2): what is the loss before the first step?

# %%
answer = ...

# %%
check("10.2", answer)

# %% [markdown]
# All of it rests on the log-probability of an answer: those of its tokens, added up.


# %%
def log_probability(logits, targets):
    places = np.flatnonzero(targets != IGNORE)
    return jax.nn.log_softmax(logits)[places, targets[places]].sum()


book(
    "dpo.gather",
    -log_probability(jnp.array([[2.0, 1.0, 0.1], [0.5, 2.5, 0.3]]), np.array([0, 2])) / 2,
)


# %%
def pair_of(story):
    asked = questions(story, seed=2)[0]
    sentence, brief = forms(asked)
    fields = {"prompt": asked.prompt, "chosen": sentence, "rejected": brief}
    pair = preference(Record(fields, f"pair {story}"))
    return encode_preference(pair, template, tokenizer)


BETA, PAIRS, TURNS = 0.1, 6, 16
dpo = PreferenceConfig(beta=BETA)
likelihood = jax.jit(pair_likelihood(config, dpo))
collated = [
    collate_pairs(
        [pair_of(PAIRS * turn + place) for place in range(PAIRS)], padding=0, widths=[144]
    )
    for turn in range(TURNS + 1)
]
*lessons, watched = [p._replace(reference=likelihood(tuned, p)) for p in collated]
preferring = jaxgpt.preference_loss(config, dpo)
nats, count = preferring(tuned, watched, None)
print(f"loss before the first step {nats / count:.4f}, ln 2 = {np.log(2):.4f}")

# %% [markdown]
# The model is its own reference then: both rewards are 0, and the loss is ln 2, as for a coin. Now
# take steps, small ones, and watch pairs that are not trained on.

# %%
rewards_fn = jax.jit(preference_sums(config, dpo))


def prefer(step_fn, optimizer, params, model_of=lambda params: params):
    """Train on the pairs; the parameters, and the mean rewards (chosen, rejected) on the way."""
    state, seen = jaxgpt.init_state(params, optimizer), []
    for number in range(TURNS + 1):
        if number % 2 == 0:
            sums = rewards_fn(model_of(state.params), watched)
            seen.append([sums[name] / PAIRS for name in ("chosen_reward", "rejected_reward")])
        if number < TURNS:
            state, _ = step_fn(state, lessons[number], np.int32(number))
    return state.params, np.array(seen)


# %%
def gentle(rate):
    return jaxgpt.make_optimizer(
        OptimizerConfig(learning_rate=rate, warmup_steps=0, weight_decay=0.0), TURNS
    )


optimizer = gentle(1.5e-4)
preferred, rewards = prefer(compiled(preferring, optimizer), optimizer, tuned)
stages["preferences"] = shares(preferred)
print(held_out[0].text, "->", answers_of(preferred)[0])
assert rewards[-1, 0] > rewards[-1, 1]

# %% [markdown]
# By hand, for the first pair, with the model as it is now:

# %%
by_hand = []
for answer_row, targets in zip(watched.inputs[0], watched.targets[0], strict=True):
    now, before = (GPT(config, params)(answer_row[None])[0] for params in (preferred, tuned))
    by_hand.append(BETA * (log_probability(now, targets) - log_probability(before, targets)))
chosen, rejected = by_hand
print(f"reward of chosen {chosen:.3f}, of rejected {rejected:.3f}")
one = Pairs(*(part[:1] for part in watched))
same(-jnp.log(1 / (1 + jnp.exp(rejected - chosen))), preferring(preferred, one, None)[0], rtol=1e-4)

# %%
figure, axes = figures.new(8, 3.6)
axes.axhline(0, color=figures.INK, lw=0.8)
for column, (name, style) in enumerate((("chosen", "o-"), ("rejected", "s--"))):
    color = figures.SECOND if style == "o-" else figures.LIT
    axes.plot(range(0, TURNS + 1, 2), rewards[:, column], style, ms=4, color=color, label=name)
axes.set(xlabel="step", ylabel="reward on pairs not trained on (nats)")
axes.legend(frameon=False)
figures.show(
    figure,
    "Mean reward of the chosen and of the rejected answers by step: both begin at 0, and the "
    "distance between them grows, the chosen above and the rejected below.",
)

# %% [markdown]
# ## Low-rank adapters (LoRA)
#
# **The idea in a breath.** Fine-tuning changes a matrix by a matrix of the same size. Perhaps a
# simpler change will do. A product of a tall matrix A and a flat matrix B, with few numbers where
# they meet, is a large matrix with few numbers behind it. How many meet is the **rank**. So freeze
# the model, and train A and B alone: **low-rank adaptation**.
#
# B begins as zeros, so at first nothing is changed at all. Later the product can stay beside the
# matrix, or be added to it: **merged**, the model is as fast as before.

# %%
lora = LoraConfig(rank=4, alpha=4.0)
fresh = jaxgpt.init_adapters(tuned, lora, jax.random.key(0))
tokens = row.inputs[None]
first = GPT(config, jaxgpt.merge(tuned, fresh, lora))(tokens)
assert (first == GPT(config, tuned)(tokens)).all()  # bit for bit


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


print(f"{size(tuned):,} parameters, {size(fresh):,} in adapters of rank {lora.rank}")
medium = replace(jaxgpt.get_preset("gpt2-medium").model, tie_head=False)
everywhere = LoraConfig(rank=16, targets=LORA_TARGETS)
shapes = jax.eval_shape(
    lambda: jaxgpt.init_adapters(
        jaxgpt.model.parameters.parameter_shapes(medium), everywhere, jax.random.key(0)
    )
)
book("ch07.lora_params_355M", size(shapes))

# %% [markdown]
# The same preferences again, now by adapters. They need a larger step, as they are few; which one
# is right differs from model to model.

# %%
optimizer = gentle(2.8e-3)
step_fn = compiled(lora_loss(preferring, tuned, lora), optimizer)
merged_with = jax.jit(lambda adapters: jaxgpt.merge(tuned, adapters, lora))
adapters, lora_rewards = prefer(step_fn, optimizer, fresh, merged_with)
merged = merged_with(adapters)
stages["preferences,\nby LoRA"] = shares(merged)
assert lora_rewards[-1, 0] > lora_rewards[-1, 1]

x = jax.random.normal(jax.random.key(1), (5, config.embed_dim))
A, B = adapters["up"]["A"][0], adapters["up"]["B"][0]
frozen, together = (p["blocks"]["mlp"]["up"]["weight"][0] for p in (tuned, merged))
same(x @ frozen + lora.scale * (x @ A) @ B, x @ together, atol=1e-5)

# %% [markdown]
# Was a low rank enough? A **singular value** says how much a matrix stretches in one direction;
# their number above 0 is its rank. Left: those of three changes of one matrix. Right: the change of
# SFT, with only the largest few of each matrix kept.


# %%
def change(after, before):
    weights = (params["blocks"]["mlp"]["up"]["weight"][1] for params in (after, before))
    values = np.linalg.svd(np.subtract(*map(np.asarray, weights)), compute_uv=False)
    return values / values[0]


# %%
now, structure = jax.tree.flatten(tuned["blocks"])
before = jax.tree.leaves(base["blocks"])
parts = [
    np.linalg.svd(np.subtract(*map(np.asarray, pair)), full_matrices=False)
    if pair[0].ndim == 3  # the matrices, one for each block; not biases and norms
    else None
    for pair in zip(now, before, strict=True)
]


def cut(rank):
    """The tuned model, each matrix of a block changed by the nearest change of this rank."""
    leaves = list(now)
    for place, (part, was) in enumerate(zip(parts, before, strict=True)):
        if part is not None:
            u, s, v = part
            leaves[place] = was + (u[..., :rank] * s[..., None, :rank]) @ v[..., :rank, :]
    return tuned | {"blocks": jax.tree.unflatten(structure, leaves)}


ranks = [1, 2, 4, 8, 16, 128]
by_rank = [shares(cut(rank)).sum() for rank in ranks]
assert by_rank[3] >= 0.7 * by_rank[-1]

# %%
figure, (left, right) = figures.new(11, 3.8, columns=2)
for name, after, before, style in (
    ("SFT, all parameters", tuned, base, "-"),
    ("DPO, all parameters", preferred, tuned, "--"),
    (f"DPO, adapters of rank {lora.rank}", merged, tuned, "o"),
):
    values = change(after, before)[: 32 if style != "o" else lora.rank]
    color = figures.LIT if style == "o" else figures.SECOND if style == "-" else figures.INK
    left.plot(range(1, len(values) + 1), values, style, color=color, label=name)
left.set(xlabel="singular value, the largest first", ylabel="share of the largest", ylim=(0, 1.05))
left.legend(frameon=False, fontsize=9.5)
right.plot(range(len(ranks)), by_rank, "s-", color=figures.SECOND)
right.set_xticks(range(len(ranks)), map(str, ranks))
right.set(xlabel="rank that is kept of the change of SFT", ylabel="exact match", ylim=(0, 1.05))
figures.show(
    figure,
    "Left, singular values of three changes: those of full tuning fall off with a long tail, "
    "those of adapters end at their rank. Right, exact match against the rank that is kept of "
    "the change: it rises from low ranks to that of the whole change.",
)

# %%
figure, axes = figures.new(8, 3.8)
places = np.arange(len(stages))
sentences, brief = np.array(list(stages.values())).T
axes.bar(places, sentences, 0.6, color=figures.SECOND, edgecolor=figures.INK, label="sentence")
axes.bar(
    places, brief, 0.6, sentences, color="white", hatch="//", edgecolor=figures.INK, label="brief"
)
axes.set_xticks(places, stages)
axes.set(xlabel="model after", ylabel="exact match", ylim=(0, 1.05))
axes.legend(frameon=False, loc="upper left")
figures.show(
    figure,
    "Exact match by stage, by form of the answer: none before, nearly all in the brief form after "
    "instructions, and sentences after preferences; the last bar is that of adapters.",
)

# %% [markdown]
# ## ChatGPT-like: a conversation
#
# A `Chat` keeps what was said, writes it by the template, and lets the model answer up to
# end-of-text. The third question is of a kind that it never learnt.

# %%
sampling = jaxgpt.SamplingConfig(temperature=0.0)  # always the likeliest token
chat = Chat(replace(model, params=preferred), template, ChatConfig("", 12, sampling=sampling))
others = [item.text for item in questions(0, seed=4)]
for text in (question.prompt, "Who is the hero?", others[1]):
    print("user     ", text.splitlines()[-1])
    print("assistant", "".join(chat.reply(text)))
print(len(chat.turns), "turns; right for the third would be", questions(0, seed=4)[1].sentence)

# %% [markdown]
# It has learnt one kind of question, and takes every other for that one. A model learns what it is
# shown. The package's `make_assistant` shows five kinds, for longer.
#
# ## Find the bug
#
# Rows of `suspect` have one error. Tuned further on them, the model has a loss below the floor that
# none can pass, and answers nothing right. Look at one row. Is it the `"mask"`, the `"padding"`, a
# missing `"end"`, learnt `"markers"`, or a missing `"shift"`? (Exercise 10.3, 8 minutes, difficulty
# 2.)

# %%
easy = [
    tuple(collate([suspect(row) for row in rows[step * ROWS :][:ROWS]], padding=0, widths=[WIDTH]))
    for step in range(48)
]
fooled, easy_losses = train(sft_step, adam, tuned, easy)
print(f"loss {easy_losses[-1]:.3f}, floor {floor:.3f}; exact match {shares(fooled).sum():.0%}")
strange = suspect(rows[0])
for place in np.flatnonzero(strange.targets != IGNORE)[:8]:
    fed, wanted = (tokenizer.decode([int(r[place])]) for r in (strange.inputs, strange.targets))
    print(f"place {place}: input {fed!r}, target {wanted!r}")
answer = ...

# %%
check("10.3", answer)

# %% [markdown]
# ## In the library
#
# Templates, rows and packing are in `jaxgpt/finetuning/`, and so are `preferences.py` and
# `lora.py`; `tune_instructions` and `tune_preferences` make whole runs of them. `jaxgpt/assistant/`
# has answers and the chat. `tests/finetuning/test_invariances.py` shows that padding and packing
# change nothing, `tests/finetuning/test_preferences.py` that the loss is the formula.
#
# ## What you know now
#
# - An assistant is a GPT that goes on with a template; what it learns, the targets say.
# - DPO makes the chosen answer likelier, held by a reference; it begins at ln 2.
# - A change of low rank can do nearly as much, and merges into the model.
#
# Next: 11, where our numbers are held against PyTorch's.
