"""Questions -> a fine-tuned model's answers, and how near they come to the known ones."""

from collections.abc import Sequence
from functools import partial

import jax

from jaxgpt.errors import DataError
from jaxgpt.fields import check
from jaxgpt.finetuning.instructions import Conversation, conversation_rows, encode_prompt
from jaxgpt.finetuning.templates import PromptTemplate, Turn
from jaxgpt.generation.decoding import generate
from jaxgpt.generation.prepared_params import prepare_params
from jaxgpt.generation.settings import SamplingConfig
from jaxgpt.generation.text import LanguageModel
from jaxgpt.tokenization.tokenizer import ends_of
from jaxgpt.training.checkpoint import LoadedModel
from jaxgpt.training.evaluation import finite, total_loss
from jaxgpt.training.loss import pretraining_loss
from jaxgpt.training.step import eval_step

GREEDY = SamplingConfig(temperature=0.0)


def write_answers(
    model: LanguageModel,
    prompts: Sequence[Sequence[Turn]],
    template: PromptTemplate,
    *,
    max_new_tokens: int,
    sampling: SamplingConfig = GREEDY,
    seed: int = 0,
    batch_size: int = 32,
) -> list[str]:
    """The model's answer to each prompt, up to its end-of-text token or `max_new_tokens`.

    Prompts of like length share a batch, which changes no answer: where answers are drawn, the
    draws for a prompt are made from `seed` and its place in `prompts`. Raises DataError for a
    prompt that does not fit into the context with `max_new_tokens` after it, or a tokenizer without
    an end-of-text token; ConfigError for a batch size below 1, and as `stream` does.
    """
    check(batch_size >= 1, f"batch_size is {batch_size}; it must be 1 or more")
    tokenizer, context_length = model.tokenizer, model.config.context_length
    encoded = [encode_prompt(turns, template, tokenizer) for turns in prompts]
    for number, (tokens, turns) in enumerate(zip(encoded, prompts, strict=True), 1):
        if len(tokens) + max_new_tokens > context_length:
            raise DataError(
                f"prompt {number} ({turns[-1].text[:40]!r}): {len(tokens)} tokens leave no room "
                f"for max_new_tokens {max_new_tokens} in context_length {context_length}; shorten "
                "it, lower max_new_tokens, or take a model with a longer context"
            )
    params = prepare_params(model.params).for_rows(model.config, min(batch_size, len(prompts)))
    answers = [""] * len(prompts)
    by_length = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    for first in range(0, len(prompts), batch_size):
        indices = by_length[first : first + batch_size]
        written = generate(
            model.config,
            params,
            [encoded[i] for i in indices],
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            seed=seed,
            sample_indices=indices,
            end_of_text=ends_of(tokenizer),
            vocab_size=min(tokenizer.vocab_size, model.config.vocab_size),
        )
        for i, tokens in zip(indices, written, strict=True):
            answers[i] = tokenizer.decode(tokens)
    return answers


def exact_match(answers: Sequence[str], references: Sequence[str]) -> float:
    """The share of answers that are their reference, from 0 to 1.

    White space at either end does not count; case, punctuation and all else do. Raises DataError
    for no answer, or not one for each reference.
    """
    if not answers or len(answers) != len(references):
        raise DataError(f"{len(answers)} answers for {len(references)} references; give one each")
    pairs = zip(answers, references, strict=True)
    return sum(answer.strip() == reference.strip() for answer, reference in pairs) / len(answers)


def answer_loss(
    model: LoadedModel,
    conversations: Sequence[Conversation],
    template: PromptTemplate,
    *,
    batch_size: int = 32,
) -> tuple[float, int]:
    """The mean loss in nats per token of the conversations' answers, and their number of tokens.

    The end-of-text token after each answer counts, the prompt does not. Raises DataError as
    `conversation_rows` does, ConfigError for a batch size below 1, NonFiniteError without a loss.
    """
    check(batch_size >= 1, f"batch_size is {batch_size}; it must be 1 or more")
    rows = conversation_rows(
        conversations, template, model.tokenizer, context_length=model.config.context_length
    )
    measure = jax.jit(partial(eval_step, loss_fn=pretraining_loss(model.train_config)))
    nats, count = total_loss(measure, model.params, rows.in_order(batch_size))
    return finite(nats / count), count
