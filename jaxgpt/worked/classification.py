"""The text that a classifier is first tried on (chapter 6)."""

from typing import Any

from jaxgpt.worked.examples import Given, example


@example("ch06.prompt_ids")
def _tokens_of_prompt(given: Given) -> Any:
    return given.tokenizer.encode("Do you have time")
