# %% [markdown]
# # 01 Text to tokens
#
# **What you will build**: the way from text to numbers, and back. First by words, then by bytes,
# then by byte pairs, as GPT-2 and its successors do it. You need Python; no machine learning. 25
# minutes.

# %%
from collections import Counter
from itertools import pairwise

import jaxgpt
from course import book, check, figures
from course.exercises.tokens import broken_decode
from jaxgpt.data.stories import tell_story
from jaxgpt.tokenization.bpe import learn_merges
from jaxgpt.tokenization.words import split_words

SENTENCE = "The cat sat on the mat."

# %% [markdown]
# ## The path
#
# A model computes with numbers, so a text has to become numbers before, and numbers a text after.
# The units into which it is cut are **tokens**; the number of each is its **id**; the list of all
# tokens that there are is the **vocabulary**.

# %%
words = jaxgpt.WordTokenizer.train(SENTENCE)
ids = words.encode(SENTENCE)
figures.path_strip(
    "tokens",
    [SENTENCE[:12] + "...", str(ids[:4])[:-1] + ", ...", "notebook 03", "notebook 04"]
    + ["notebook 05"] * 2
    + ["notebook 07", words.decode(ids[:3]) + "..."],
)

# %% [markdown]
# ## Tokenization: breaking a text into units
#
# **The idea in a breath.** Words are what a text seems to be made of, so cut there. Signs such as
# a comma are units of their own, or "mat" and "mat." would be two words.

# %%
print(split_words(SENTENCE))
greeting = "Hello, world. Is this-- a test?"
print(split_words(greeting))
book("ch02.regex_split_hello", split_words(greeting))

# %% [markdown]
# ## Vocabulary: mapping tokens to ids
#
# Take each unit once, sort, count from 0: the place in that list is the id. An id is a name and no
# amount: id 6 is not twice id 3. What an id means, a model has to learn (notebook 03).

# %%
vocabulary = sorted(set(split_words(SENTENCE)))
for token, word in enumerate(vocabulary):
    print(token, word)
print(SENTENCE, "->", [vocabulary.index(word) for word in split_words(SENTENCE)])
assert [vocabulary.index(word) for word in split_words(SENTENCE)] == words.encode(SENTENCE)

# %% [markdown]
# **Predict** (exercise 01.1, 2 minutes, difficulty 1): which ids has `the mat sat.` in this
# vocabulary? Write a list, before you compute it.

# %%
answer = ...

# %%
check("01.1", answer)

# %% [markdown]
# Back is the same list read the other way. Spaces were thrown away, so a rule has to put them back;
# that cannot always be right.

# %%
print(words.decode(words.encode(SENTENCE)))
print(words.decode(words.encode("The   cat\nsat on the mat .")))

# %% [markdown]
# And a word that was not there? It has no id. A word tokenizer either refuses, or has a **special
# token** for the unknown, `<|unk|>`, which says nothing of what stood there.

# %%
strict = jaxgpt.WordTokenizer.train(SENTENCE, unknown=False)
try:
    strict.encode("The dog sat.")
except KeyError as error:
    print("refused:", str(error).partition(";")[0])
print(words.encode("The dog sat."), "->", words.decode(words.encode("The dog sat.")))

# %% [markdown]
# ## Bytes: a vocabulary that knows everything
#
# **The idea in a breath.** A computer keeps any text as **bytes**, of which there are
# 256. Take those for tokens, and no text is ever unknown. But texts become long: each letter is a
# token, and a sign outside the English alphabet is several.

# %%
text = "naïve 🙂"
spelt = jaxgpt.load_tokenizer("bytes")
for character in text:
    print(character, spelt.encode(character))
assert spelt.decode(spelt.encode(text)) == text

# %% [markdown]
# ## Byte pairs: between the two
#
# **The idea in a breath.** Begin with bytes. Find the two neighbours that stand together most
# often, and give the pair an id of its own: a **merge**. Do so again and again. Frequent words
# become one token, rare ones stay in pieces, and nothing is unknown. This is **byte-pair
# encoding**, BPE.
#
# One merge by hand, on a few words. Pairs are counted within words, not across spaces.

# %%
few = ["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3
pairs = Counter(pair for word in few for pair in pairwise(word))
print(pairs.most_common(4))
first, count = pairs.most_common(1)[0]
print("merge", first, "which stands there", count, "times")

# %% [markdown]
# The package learns the same, and goes on. A merged piece is a neighbour like any other, so pieces
# grow. Among pairs that are equally frequent, the one with the lowest ids comes first.

# %%
merges = learn_merges(Counter(word.encode() for word in few), 12)
pieces = [bytes([value]) for value in range(256)]
for number, (left, right) in enumerate(merges):
    pieces.append(pieces[left] + pieces[right])
    print(256 + number, pieces[left].decode(), "+", pieces[right].decode())
assert pieces[256].decode() == "".join(first)

# %%
figure, axes = figures.new(8, 3.6)
axes.axis("off")
rows, row = [list("newest")], [bytes([value]) for value in b"newest"]
for left, right in merges:
    pair, place = (pieces[left], pieces[right]), 0
    before = list(row)
    while place < len(row) - 1:
        if (row[place], row[place + 1]) == pair:
            row[place : place + 2] = [pair[0] + pair[1]]
        place += 1
    if row != before:
        rows.append([piece.decode() for piece in row])
axes.set(xlim=(-1.6, 6), ylim=(0, len(rows)))
for height, row in enumerate(rows):
    axes.text(
        -0.1, height + 0.5, "bytes" if not height else f"merge {height}", ha="right", va="center"
    )
    left = 0
    for piece in row:
        new = height > 0 and piece not in rows[height - 1]
        figures.box(axes, left, height + 0.1, len(piece), 0.8, piece, lit=new)
        left += len(piece)
tower = "; ".join(" ".join(row) for row in rows)
figures.show(figure, f"The word newest from its letters at the bottom, a merge a row: {tower}.")

# %% [markdown]
# Yours to build (exercise 01.2, 8 minutes, difficulty 2): `merge(ids, pair, new)`, a new list with
# `new` in place of each `pair`. The check knows what goes wrong: pairs that overlap, ids above 256,
# lists of none and of one.

# %%
answer = ...  # def merge(ids, pair, new): ...  and then: answer = merge

# %%
check("01.2", answer)

# %% [markdown]
# ## On real size
#
# The corpus of this course is written by a small grammar of stories. Here are its tokens, by
# vocabularies of several sizes. A larger vocabulary makes shorter texts, but each id costs a vector
# in the model, and rare tokens are seldom seen. The package's `small` model takes 2048.

# %%
stories = "".join(tell_story(index, seed=0).text for index in range(300))
text = tell_story(999, seed=1).text
sizes = [257, 300, 400, 600, 1024, 2048]
trained = {size: jaxgpt.train_bpe([stories], size) for size in sizes}
per_token = [len(text.encode()) / len(trained[size].encode(text)) for size in sizes]
for size, share in zip(sizes, per_token, strict=True):
    print(f"{size:>5} ids: {share:.2f} bytes in a token")
assert per_token == sorted(per_token)

# %%
figure, (axes, cost) = figures.new(10, 3.6, columns=2)
axes.plot(sizes, per_token, "o-", color=figures.SECOND)
axes.set(xlabel="vocabulary (ids)", ylabel="bytes in a token", ylim=(0, None))
cost.plot(sizes, [size * 128 / 1000 for size in sizes], "s--", color=figures.LIT)
cost.set(
    xlabel="vocabulary (ids)", ylabel="numbers in the table of\nvectors of width 128 (thousands)"
)
figures.show(
    figure,
    "Two curves over the size of the vocabulary: bytes in a token rise steeply, then less and "
    "less; the numbers in the table of vectors grow in a straight line.",
)

# %% [markdown]
# GPT-2 learnt its vocabulary from forty gigabytes of the web. The same sentence, in five ways:

# %%
gpt2 = jaxgpt.load_tokenizer("gpt2")
line = "Lily and Pip went to the lake."
ways = {
    "bytes": [bytes([value]).decode() for value in line.encode()],
    "words": split_words(line),
    "BPE, 300 ids": [trained[300].decode([token]) for token in trained[300].encode(line)],
    "BPE, 2,048 ids": [trained[2048].decode([token]) for token in trained[2048].encode(line)],
    "GPT-2": [gpt2.decode([token]) for token in gpt2.encode(line)],
}
figure, axes = figures.new(11, 3.4)
axes.axis("off")
axes.set(xlim=(-6.5, len(line) + 3.5), ylim=(0, len(ways)))
for height, (name, pieces) in enumerate(reversed(ways.items())):
    axes.text(-0.4, height + 0.5, name, ha="right", va="center")
    left = 0
    for number, piece in enumerate(pieces):
        left = line.index(piece, left)
        shown = piece.replace(" ", "·")
        figures.box(axes, left, height + 0.12, len(piece), 0.76, shown, lit=number % 2 == 1)
        left += len(piece)
    axes.text(len(line) + 0.4, height + 0.5, f"{len(pieces)} tokens", va="center")
told = "; ".join(f"{name}: {len(pieces)} tokens" for name, pieces in ways.items())
figures.show(figure, f"One sentence cut five ways, each token a box, a dot for a space. {told}.")

# %% [markdown]
# A space belongs to the word behind it: " the" and "the" are two tokens. That is why prompts should
# not end in a space. And ids say when a piece was learnt: low ids are frequent pieces.

# %%
print(gpt2.encode("the"), gpt2.encode(" the"), gpt2.encode("the "))
unheard = "Akwirw ier"
print([(token, gpt2.decode([token])) for token in gpt2.encode(unheard)])
book("ch02.ex21", gpt2.encode(unheard))
book("bpe.gpt2.'Implementations'", gpt2.encode("Implementations"))

# %% [markdown]
# How often is each token used? A few stand everywhere, most almost nowhere, and on a log scale the
# line is nearly straight: **Zipf's law**, which holds for words of any language.

# %%
used = Counter(trained[2048].encode(stories))
spoken = Counter(split_words(stories))
figure, axes = figures.new(7, 3.8)
for counts, label, style, color in [
    (used, "tokens of BPE", "-", figures.SECOND),
    (spoken, "words", "--", figures.LIT),
]:
    ordered = sorted(counts.values(), reverse=True)
    axes.plot(range(1, len(ordered) + 1), ordered, style, color=color, label=label)
axes.set(xscale="log", yscale="log", xlabel="rank (1 is the most frequent)", ylabel="times used")
axes.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1,000"])
axes.set_yticks([1, 100, 10000], ["1", "100", "10,000"])
axes.legend(frameon=False)
figures.show(
    figure,
    "Times used against rank, both on log scales, for tokens and for words: the two lines fall "
    "together, from thousands of times for the first to a few for the last.",
)

# %% [markdown]
# ## Special tokens are a privilege
#
# `<|endoftext|>` stands between texts, so that a model knows where one ends. A user who types it
# must not be able to end a text: in a text it is text, unless the program allows it.

# %%
marker = "<|endoftext|>"
print(
    len(gpt2.encode(marker)), "tokens as text;", gpt2.encode(marker, allow_special=True), "allowed"
)
mixed = "Hello, do you like tea? <|endoftext|> In the sunlit terracesof someunknownPlace."
book("ch02.tiktoken.encode", gpt2.encode(mixed, allow_special=True))

# %% [markdown]
# ## Find the bug
#
# A decoder that someone wrote gives most texts back, and breaks some. Why? Is the byte missing from
# the `"vocabulary"`, is their `"order"` wrong, are they `"special"` tokens, or are `"characters"`
# taken apart? (Exercise 01.3, 5 minutes, difficulty 2.)

# %%
tokenizer = trained[300]
text = "A naïve cat 🙂 smiled."
ids = tokenizer.encode(text)
print(broken_decode(tokenizer, ids))
answer = ...

# %%
check("01.3", answer)

# %% [markdown]
# ## In the library
#
# Words are in `jaxgpt/tokenization/words.py`, bytes in `tokenizer.py` beside it, and byte pairs are
# learnt in `bpe.py`. `tests/tokenization/test_bpe.py` learns the same merges another way, and
# `tests/tokenization/test_tokenizer.py` holds GPT-2's ids.
#
# ## What you know now
#
# - Tokens are the units of a text, ids their names, the vocabulary the list of all.
# - Words leave some texts unknown, bytes make all texts long; byte pairs are between the two.
# - A merge gives the most frequent pair of neighbours an id; low ids are frequent pieces.
#
# Next: 02, where a long row of ids becomes pieces to learn from.
