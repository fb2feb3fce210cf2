import hashlib
import re
from collections import Counter
from itertools import combinations, product
from math import isclose, log2, sqrt

import pytest

from jaxgpt.data.grammar import Choice, Grammar, by, one_of, slots, words
from jaxgpt.data.stories import (
    STORIES,
    story_entropy,
    tell_story,
    write_stories,
)
from jaxgpt.errors import ConfigError

CHOICES = STORIES.choices
TINY = Grammar(
    {
        "child": one_of("girl 2, boy"),
        "hero": by("child", girl="Ann 3, Bea", boy="Cid"),
        "she": by("child", girl="She", boy="He"),
        "text": one_of({"{hero} ran. {she} fell.\n\n": 1, "So {hero} ran. {she} won.\n\n": 3}),
    }
)


def texts_of(choice: Choice) -> list[str]:
    """The distinct alternatives of a choice, of all its urns."""
    return list(dict.fromkeys(text for urn in choice.urns.values() for text in urn))


# ------------------------------------------------------------------------------------------
# Entropy: every story of a small grammar, one by one
# ------------------------------------------------------------------------------------------

# The real grammar with two alternatives left in each urn of these choices, and one in the others.
KEPT = {
    *("child", "hero", "trait", "opening", "companion", "season", "weather", "month"),
    *("place", "gift", "problem", "tool", "meeting", "did", "rescue", "moral"),
}


@pytest.fixture(scope="module")
def shrunk() -> Grammar:
    return Grammar(
        {
            name: Choice(
                {
                    label: dict(list(urn.items())[: 2 if name in KEPT else 1])
                    for label, urn in choice.urns.items()
                },
                choice.given,
            )
            for name, choice in CHOICES.items()
        }
    )


@pytest.fixture(scope="module")
def every_story(shrunk: Grammar) -> list[tuple[str, float]]:
    """Every way through the grammar: (text, probability), by nothing but recursion."""
    steps = list(shrunk.choices.items())
    found = []

    def walk(depth: int, facts: dict[str, str], chance: float) -> None:
        if depth == len(steps):
            found.append((facts["story"], chance))
            return
        name, choice = steps[depth]
        urn = choice.urns[facts[choice.given] if choice.given else ""]
        for text, weight in urn.items():
            filled = text.format(**facts)
            walk(depth + 1, {**facts, name: filled}, chance * weight / sum(urn.values()))

    walk(0, {}, 1.0)
    return found


@pytest.mark.slow
def test_every_story_of_the_shrunken_grammar_is_told_apart(every_story):
    assert len(every_story) == 2 ** len(KEPT)
    assert len({text for text, _ in every_story}) == len(every_story)


def test_probabilities_of_every_story_sum_to_one(every_story):
    assert isclose(sum(chance for _, chance in every_story), 1, rel_tol=1e-12)


def test_entropy_equals_the_sum_over_every_story(shrunk, every_story):
    summed = -sum(chance * log2(chance) for _, chance in every_story)
    assert isclose(story_entropy(shrunk), summed, rel_tol=1e-12)


def test_bits_of_a_story_are_the_enumerated_ones(shrunk, every_story):
    chances = dict(every_story)
    for story in write_stories(100_000, seed=3, grammar=shrunk):
        assert isclose(story.bits, -log2(chances[story.text]), rel_tol=1e-12)


def test_entropy_of_a_grammar_computed_by_hand():
    # H(child) + 2/3 H(hero | girl) + H(text)
    by_hand = log2(3) - 2 / 3 + 2 / 3 * (2 - 3 / 4 * log2(3)) + (2 - 3 / 4 * log2(3))
    assert isclose(TINY.entropy(), by_hand, rel_tol=1e-12)


@pytest.mark.slow_but_first
@pytest.mark.parametrize("index", range(6))
def test_spans_tell_what_a_reader_who_knows_the_grammar_learns(shrunk, every_story, index):
    """Bits of a span: by how much fewer of all stories begin as the text does up to its end."""
    story = tell_story(index, seed=3, grammar=shrunk)
    left, likely = every_story, 1.0
    for span in shrunk.spans(story.facts):
        left = [pair for pair in left if pair[0].startswith(story.text[: span.end])]
        chance = sum(chance for _, chance in left)
        assert isclose(span.bits, log2(likely / chance), rel_tol=1e-9, abs_tol=1e-9)
        likely = chance


@pytest.mark.slow
def test_spans_cover_each_character_once_and_add_up_to_the_bits():
    for index in range(80):
        story = tell_story(index, seed=9)
        spans = STORIES.spans(story.facts)
        assert [span.start for span in spans] == [0, *(span.end for span in spans[:-1])]
        assert spans[-1].end == len(story.text)
        assert isclose(sum(span.bits for span in spans), story.bits, rel_tol=1e-12)
        for span in spans:
            text = story.text[span.start : span.end]
            plain = not any(map(slots, texts_of(CHOICES[span.choice])))
            assert not plain or text == story.facts[span.choice]


def test_only_the_first_span_of_a_choice_tells_what_it_drew():
    for story in write_stories(20_000, seed=4):
        spans = STORIES.spans(story.facts)
        first, *again = [span.bits for span in spans if span.choice == "tool"]
        assert first >= log2(24 / 4)
        assert again == [0.0] * len(again)


def test_spans_carry_bits_past_empty_texts_and_beginnings_of_others():
    grammar = Grammar(
        {
            "mark": one_of({"": 1, "!": 1}),
            "word": one_of("pie, pies"),
            "untold": one_of("a, b"),
            "text": one_of({"{word}{mark} ran": 1}),
        }
    )
    facts = {"mark": "", "word": "pie", "untold": "a", "text": "pie ran"}
    pie, rest = grammar.spans(facts)
    assert (pie.choice, pie.end, pie.bits) == ("word", 3, 0.0)
    assert (rest.choice, rest.end, rest.bits) == ("text", 7, 2.0)


def test_mean_bits_of_the_full_grammar_are_its_entropy():
    bits = [tell_story(index, seed=5).bits for index in range(4000)]
    mean = sum(bits) / len(bits)
    error = sqrt(sum((b - mean) ** 2 for b in bits)) / len(bits)
    assert abs(mean - story_entropy()) < 5 * error


def test_draws_follow_the_weights():
    drawn = Counter(tell_story(index, seed=6).facts["problem"] for index in range(4000))
    urn = CHOICES["problem"].urns[""]
    for problem, weight in urn.items():
        share = weight / sum(urn.values())
        assert abs(drawn[problem] / 4000 - share) < 5 * sqrt(share * (1 - share) / 4000)


# ------------------------------------------------------------------------------------------
# One text, one way to write it: a proof that reads the grammar, and a parser that reads stories
# ------------------------------------------------------------------------------------------

Tokens = tuple[str, ...]  # single letters and "{slots}"


def tokens_of(text: str) -> Tokens:
    return tuple(re.findall(r"{\w+}|[^{}]", text, re.DOTALL))


def could_agree(one: Tokens, two: Tokens) -> bool:
    """Whether two alternatives, read from the left, could begin alike until one of them ends.

    A slot that stands in both at the same spot is the same text in both. Any other slot is opened
    to all that any urn of it holds, which takes more texts to be possible than are.
    """
    while one and two and one[0] == two[0]:
        one, two = one[1:], two[1:]
    if not one or not two:
        return True
    for here, there in ((one, two), (two, one)):
        if len(here[0]) > 1:
            inside = texts_of(CHOICES[here[0][1:-1]])
            return any(could_agree(tokens_of(text) + here[1:], there) for text in inside)
    return False


def followers() -> dict[str, set[str]]:
    """What stands right after each slot: a letter, a slot, or the end of the alternative."""
    after: dict[str, set[str]] = {name: set() for name in CHOICES}
    for owner, choice in CHOICES.items():
        for text in texts_of(choice):
            tokens = tokens_of(text)
            for token, following in zip(tokens, (*tokens[1:], f"after {owner}"), strict=True):
                if len(token) > 1:
                    after[token[1:-1]].add(following)
    for owner in reversed(list(CHOICES)):
        for name in after:
            if f"after {owner}" in after[name]:
                after[name] = (after[name] - {f"after {owner}"}) | after[owner]
    return after


def always_told(name: str) -> set[str]:
    """The choices whose texts are in every text of this one."""
    return {name} | set.intersection(
        *(
            set().union(*(always_told(slot) for slot in slots(text)))
            for text in texts_of(CHOICES[name])
        )
    )


def test_no_alternative_begins_another():
    """At every choice the text alone says which alternative it was, reading left to right."""
    after = followers()
    for name, choice in CHOICES.items():
        ends = after[name] or {"\0"}
        for one, two in combinations(texts_of(choice), 2):
            for end, other in product(ends, ends):
                agree = could_agree((*tokens_of(one), end), (*tokens_of(two), other))
                assert not agree, f"{name}: {one!r} and {two!r} cannot be told apart"


def test_every_choice_is_told_or_follows_from_one_that_is():
    told = always_told("story")
    for name, choice in CHOICES.items():
        if name in told or all(len(urn) == 1 for urn in choice.urns.values()):
            continue
        witnesses = [
            other
            for other, way in CHOICES.items()
            if other in told
            and way.given == name
            and sum(len(urn) for urn in way.urns.values()) == len(texts_of(way))
        ]
        assert witnesses, f"the text does not say what {name!r} drew"


def test_proof_refuses_an_alternative_that_begins_another(monkeypatch):
    monkeypatch.setitem(CHOICES, "trait", one_of("kind, brave, kind baby"))
    with pytest.raises(AssertionError, match="trait: 'kind' and 'kind baby'"):
        test_no_alternative_begins_another()


def test_proof_refuses_a_slot_that_could_be_a_template(monkeypatch):
    templates = {"Once, {hero} ran.": 1, "{once}, a {baker} ran.": 1}
    monkeypatch.setitem(CHOICES, "once", one_of("Once, Long ago"))
    monkeypatch.setitem(CHOICES, "hero", one_of("Lily, a baker"))
    monkeypatch.setitem(CHOICES, "opening", one_of(templates))
    with pytest.raises(AssertionError, match=r"opening: .* cannot be told apart"):
        test_no_alternative_begins_another()


def test_proof_refuses_a_choice_that_the_text_does_not_tell(monkeypatch):
    urns = dict.fromkeys(("spring", "summer", "autumn", "winter"), "May, June")
    monkeypatch.setitem(CHOICES, "month", by("season", **urns))
    with pytest.raises(AssertionError, match="what 'season' drew"):
        test_every_choice_is_told_or_follows_from_one_that_is()


def readings(text: str) -> list[dict[str, str]]:
    """Every assignment of choices that writes `text`, found by backtracking."""

    def read(tokens: Tokens, at: int, facts: dict[str, str]):
        if not tokens:
            yield at, facts
        elif len(tokens[0]) == 1:
            if text.startswith(tokens[0], at):
                yield from read(tokens[1:], at + 1, facts)
        elif (name := tokens[0][1:-1]) in facts:
            if text.startswith(facts[name], at):
                yield from read(tokens[1:], at + len(facts[name]), facts)
        else:
            for end, known in draw(name, at, facts):
                yield from read(tokens[1:], end, known | {name: text[at:end]})

    def draw(name: str, at: int, facts: dict[str, str]):
        given = CHOICES[name].given
        for label, urn in CHOICES[name].urns.items():
            if given and facts.get(given, label) != label:
                continue
            known = facts | {given: label} if given else facts
            for alternative in urn:
                if text.startswith(alternative.partition("{")[0], at):
                    yield from read(tokens_of(alternative), at, known)

    return [facts for end, facts in draw("story", 0, {}) if end == len(text)]


def test_parser_recovers_the_choices_of_each_story():
    for index in range(1000):
        story = tell_story(index, seed=11)
        found = readings(story.text)
        assert len(found) == 1
        assert found[0].items() <= story.facts.items()
        unread = set(CHOICES) - set(found[0]) - {"story"}
        assert all(len(urn) == 1 for name in unread for urn in CHOICES[name].urns.values())


def test_parse_gives_the_one_reading():
    for index in range(40):
        text = tell_story(index, seed=11).text
        parsed = STORIES.parse(text)
        assert [parsed.facts] == readings(text)
        assert (parsed.end, parsed.expected) == (len(text), frozenset())
        assert STORIES.parse(text, remember=False).facts


def test_parse_takes_what_the_grammar_writes_and_nothing_else():
    names, verbs = ("Ann", "Bea", "Cid"), {"fell": "{} ran. {}", "won": "So {} ran. {}"}
    for name, she, (verb, text) in product(names, ("She", "He"), verbs.items()):
        for ending in (f"{verb}.\n\n", f"{verb}.", "stood.\n\n", f"{verb}.\n\nAnn"):
            parsed = TINY.parse(f"{text.format(name, she)} {ending}")
            fits = ending == f"{verb}.\n\n" and (she == "He") == (name == "Cid")
            assert (parsed.facts is not None) == fits
    assert TINY.parse("").facts is None


def test_parse_tells_where_a_text_leaves_the_language_and_what_could_follow():
    parsed = TINY.parse("So Ann ran. He won.\n\n")
    assert (parsed.facts, parsed.end, parsed.expected) == (None, len("So Ann ran. "), {"she"})
    assert TINY.parse("So Dan ran.").expected == {"hero"}
    assert TINY.parse("Bea ran. She won.\n\n").end == len("Bea ran. She")
    assert TINY.parse("Ann ran. She fell.\n\nAnn").end == len("Ann ran. She fell.\n\n")


def test_parse_without_memory_takes_contradictions():
    contradicting = "So Ann ran. He won.\n\n"
    assert TINY.parse(contradicting, remember=False).facts
    assert TINY.parse("So Ann ran. It won.\n\n", remember=False).facts is None
    twice = Grammar({"who": one_of("Ann, Bea"), "text": one_of({"{who} met {who}.": 1})})
    assert twice.parse("Ann met Bea.").expected == {"who"}
    assert twice.parse("Ann met Bea.", remember=False).facts


# ------------------------------------------------------------------------------------------
# The language
# ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def samples():
    return list(write_stories(1_000_000, seed=2))


def test_stories_are_short_paragraphs_of_ascii(samples):
    for story in samples:
        assert story.text.isascii()
        assert story.text.endswith("\n\n")
        assert story.text.count("\n") == 2
        assert 250 <= len(story.text) <= 700
        assert not re.search(r"  | [,.!?]|[{}]|\.\.|[a-z][A-Z]", story.text)


def test_articles_fit_the_word_that_follows(samples):
    for story in samples:
        assert not re.search(r"\b[Aa] [aeiou]", story.text)
        assert not re.search(r"\b[Aa]n [^aeiou]", story.text)


def test_pronouns_are_those_of_the_hero(samples):
    wrong = {"girl": r"\b([Hh]e|[Hh]is|him)\b", "boy": r"\b([Ss]he|[Hh]er)\b"}
    for story in samples:
        assert not re.search(wrong[story.facts["child"]], story.text)


def test_late_sentences_need_early_ones(samples):
    for story in samples:
        facts = story.facts
        assert facts["tool"] in facts["rescue"]
        assert facts["gift"] in CHOICES["gift"].urns[facts["place"]]
        assert facts["moral"] in CHOICES["moral"].urns[facts["trait"]]


def test_density_leaves_the_model_much_to_predict(samples):
    assert len({story.text for story in samples}) == len(samples)
    num_bytes = sum(len(story.text.encode()) for story in samples)
    assert 0.4 < sum(story.bits for story in samples) / num_bytes < 0.9


# ------------------------------------------------------------------------------------------
# Writing
# ------------------------------------------------------------------------------------------


def test_text_of_a_seed_never_changes():
    """The first pins the stream and the drawing, the second also the words: edit it with them."""
    tiny = "".join(story.text for story in write_stories(60, seed=1, grammar=TINY))
    assert tiny == "So Bea ran. She won.\n\nAnn ran. She fell.\n\nSo Ann ran. She won.\n\n"
    text = "".join(story.text for story in write_stories(100_000, seed=0))
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "28be294340cc2d143a1c14b49887ddb6b9a3597da860aaf1f9bf556cad887f7e"


def test_story_depends_on_its_seed_and_index_alone():
    stories = list(write_stories(20_000, seed=7))
    assert stories[9] == tell_story(9, seed=7)
    assert stories[9].text != tell_story(9, seed=8).text
    assert tell_story(12, seed=3).text != tell_story(2, seed=31).text
    assert stories[:5] == list(write_stories(20_000, seed=7))[:5]


@pytest.mark.parametrize("num_bytes", [1, 500, 5000])
def test_writing_stops_with_the_story_that_reaches_num_bytes(num_bytes):
    sizes = [len(story.text.encode()) for story in write_stories(num_bytes, seed=0)]
    assert sum(sizes[:-1]) < num_bytes <= sum(sizes)


@pytest.mark.parametrize("num_bytes", [0, -5])
def test_no_bytes_are_refused_before_the_first_story(num_bytes):
    with pytest.raises(ConfigError, match=f"num_bytes is {num_bytes}"):
        write_stories(num_bytes, seed=0)


# ------------------------------------------------------------------------------------------
# Grammars
# ------------------------------------------------------------------------------------------


def test_words_reads_texts_and_weights():
    assert words("red 3, dark\n   blue, 17") == {"red": 3, "dark blue": 1, "17": 1}


@pytest.mark.parametrize("line", ["red, blue, red 2", "red, , blue", ""])
def test_words_refuses_what_is_empty_or_stands_twice(line):
    with pytest.raises(ConfigError, match="is empty or stands twice"):
        words(line)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({}, "no choices"),
        ({"hero": by("child", girl="Ann")}, "given 'child', which is no earlier one"),
        ({"text": one_of("{hero} ran")}, "slot 'hero', which is no earlier one"),
        ({"text": one_of("{text} ran")}, "slot 'text', which is no earlier one"),
        ({"text": one_of("{hero ran")}, "a brace too many or too few in '{hero ran'"),
        ({"text": one_of({"a": 0})}, "weight of 0"),
        ({"text": one_of({})}, "nothing to draw"),
        ({"a": one_of("x, y"), "b": by("a", x="z")}, "'b' has nothing to draw for 'y'"),
        ({"a": one_of("x"), "b": one_of("{a}"), "c": by("b", x="z")}, "only plain texts"),
    ],
)
def test_broken_grammars_are_refused(choices, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Grammar(choices)
