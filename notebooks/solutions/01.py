"""Answers to the exercises of notebook 01: the right ones, and wrong ones with their hints."""


def solution(ids, pair, new):
    """One pass from the left; behind a merged pair, two places further."""
    result, place = [], 0
    while place < len(ids):
        if tuple(ids[place : place + 2]) == tuple(pair):
            result.append(new)
            place += 2
        else:
            result.append(ids[place])
            place += 1
    return result


def _overlapping(ids, pair, new):
    result = []
    for place, token in enumerate(ids):
        if tuple(ids[place : place + 2]) == pair:
            result.append(new)
        elif place == 0 or tuple(ids[place - 1 : place + 1]) != pair:
            result.append(token)
    return result


def _from_the_right(ids, pair, new):
    return solution(ids[::-1], pair[::-1], new)[::-1]


def _by_identity(ids, pair, new):
    result, place = [], 0
    while place < len(ids):
        both = place + 1 < len(ids)
        if both and ids[place] is pair[0] and ids[place + 1] is pair[1]:
            result.append(new)
            place += 2
        else:
            result.append(ids[place])
            place += 1
    return result


def _first_alone(ids, pair, new):
    for place in range(len(ids) - 1):
        if tuple(ids[place : place + 2]) == pair:
            return [*ids[:place], new, *ids[place + 2 :]]
    return list(ids)


def _keeps_second(ids, pair, new):
    return [new if tuple(ids[i : i + 2]) == pair else token for i, token in enumerate(ids)]


def _in_place(ids, pair, new):
    ids[:] = solution(ids, pair, new)
    return ids


def _in_any_order(ids, pair, new):
    return solution(solution(ids, pair, new), pair[::-1], new)


def _by_text(ids, pair, new):
    text = " ".join(map(str, ids)).replace("{} {}".format(*pair), str(new))
    return [int(token) for token in text.split()]


RIGHT = {"01.1": [6, 3, 5, 0], "01.2": solution, "01.3": "characters"}

WRONG = {
    "01.1": [
        ([1, 3, 5, 0], "capital letter"),
        ([4, 5, 2, 6], "places in the sentence"),
        ([7, 4, 6, 1], "ids begin at 0"),
        ([6, 3, 5], "the full stop"),
        ([6, 7, 3, 7, 5, 0], "a space is none"),
        ([6.5, 3, 5, 0], "a list of ids"),
        ([6, 3, 4, 0], "the id at place 2"),
        ("the mat sat.", "a list of ids"),
    ],
    "01.2": [
        (_overlapping, "used twice"),
        (_from_the_right, "from the right"),
        (_by_identity, "by =="),
        (_first_alone, "only one pair"),
        (_keeps_second, "stays behind"),
        (_in_place, "make a new one"),
        (lambda ids, pair, new: None, "in place of a list"),
        (lambda ids, pair, new: str(solution(ids, pair, new)), "in place of a list"),
        (_in_any_order, "what is no pair"),
        (_by_text, "on [11, 2, 1, 23]"),
        (lambda ids, pair, new: [new if token in pair else token for token in ids], "become one"),
        (lambda ids, pair, new: [ids[len(ids)]], "raises"),
    ],
    "01.3": [
        ("vocabulary", "gives the text back"),
        ("order", "in their order"),
        ("special", "no special token"),
        ("bytes", "one of these words"),
    ],
}
