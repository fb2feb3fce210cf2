"""What a model computed on some tokens: recorded from jaxgpt, from PyTorch, or read from a file."""
