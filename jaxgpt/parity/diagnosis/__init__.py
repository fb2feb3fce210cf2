"""Why two recordings differ: the known causes, and trying them."""
