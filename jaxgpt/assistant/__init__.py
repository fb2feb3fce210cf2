"""A fine-tuned model -> answers, how good they are, and a chat."""
