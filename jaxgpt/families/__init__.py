"""Families of models on the Hugging Face hub, as data: settings, names and sizes of each."""
