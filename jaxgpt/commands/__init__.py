"""The commands of `jaxgpt`: each parses its arguments, calls one function and prints.

What imports JAX is imported where it is used: --help and a mistyped argument do not wait for it.
"""
