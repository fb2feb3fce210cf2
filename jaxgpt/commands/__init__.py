"""The commands of `jaxgpt`: each parses its arguments, calls one function and prints."""
