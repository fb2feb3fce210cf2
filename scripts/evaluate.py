"""Measure how well a trained model predicts a text: loss, perplexity, bits per byte."""

from dataclasses import dataclass

import cli

from jaxgpt.data.sources import read_documents


@dataclass(frozen=True)
class Arguments:
    """The model and the text."""

    model: cli.ModelSource
    data: tuple[str, ...]
    """Files, folders or globs of .txt, .jsonl or .parquet, read as one text."""
    stride: int = 0
    """Tokens from one window's start to the next; fewer than the context length give each token
    more context. 0 takes the context length."""
    batch_size: int = 8
    """Windows at a time."""


def main(argv: list[str]) -> None:
    """Load, measure, print."""
    cli.need_arguments(argv, "evaluate.py --checkpoint RUN --data FILE")
    arguments = cli.parse(Arguments, argv, description=__doc__)
    documents = read_documents(arguments.data)

    # Not at the top: --help and a mistyped argument are answered without waiting for JAX.
    from jaxgpt.training.evaluation import evaluate_documents

    result = evaluate_documents(
        arguments.model.load(),
        documents,
        stride=arguments.stride or None,
        batch_size=arguments.batch_size,
    )
    print(f"loss           {result.loss:.4f} nats per token")
    print(f"perplexity     {result.perplexity:.3f}")
    print(f"bits per byte  {result.bits_per_byte:.4f}")
    print(f"predicted      {result.targets:,} tokens, {result.num_bytes:,} bytes")


if __name__ == "__main__":
    cli.run(main)
