"""The numbers that a book prints beside those that a notebook computes."""

from typing import Any

from jaxgpt.worked.examples import disagreement, load_facts, plain

_FACTS = {fact["id"]: fact for fact in load_facts()}


def book(name: str, computed: Any) -> None:
    """Print that `computed` is what the book has for worked example `name`; raise if it is not.

    Distances are held against half a unit of the last digit that the book prints.
    """
    fact, values = _FACTS[name], plain(computed)
    atol, rtol = fact.get("atol", 0.0), fact.get("rtol", 0.0)
    complaint = disagreement(fact["expected"], values, atol, rtol)
    assert not complaint, f"{name}: {complaint}"
    theirs, ours = _flat(fact["expected"]), _flat(values)
    if isinstance(theirs[0], str):
        print(f"book: {name}, {len(theirs)} pieces, exactly")
        return
    furthest = max(abs(a - b) for a, b in zip(theirs, ours, strict=True))
    distance = f"at most {furthest:.0e} apart" if furthest else "exactly"
    plural = "s" * (len(theirs) != 1)
    print(f"book: {name}, {len(theirs)} number{plural}, {distance}")


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in _flat(item)]
    return [value]
