"""Folders of Hugging Face, there and back."""
