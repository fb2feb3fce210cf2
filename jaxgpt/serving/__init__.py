"""A model -> answers for many callers at once."""
