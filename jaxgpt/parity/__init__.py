"""The same model in PyTorch, and proofs that the two agree."""
