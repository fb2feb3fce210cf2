"""A pretrained GPT -> a classifier, an assistant."""
