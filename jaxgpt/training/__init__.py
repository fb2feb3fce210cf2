"""Logits -> loss -> update -> checkpoint."""
