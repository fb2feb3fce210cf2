"""jaxgpt beside PyTorch on one machine: the same work in turn, and how much time it takes."""
