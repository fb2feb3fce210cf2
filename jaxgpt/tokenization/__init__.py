"""Text -> tokens."""
