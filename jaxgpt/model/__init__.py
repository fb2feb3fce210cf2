"""Tokens -> logits."""
