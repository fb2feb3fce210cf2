"""What can go wrong that a user can mend, one class per exit code of the command lines."""


class JaxgptError(Exception):
    """A failure with one clear line: what was wrong, the allowed range, how to mend it."""

    exit_code = 1


class ConfigError(JaxgptError):
    """A bad argument or configuration value."""

    exit_code = 2


class DataError(JaxgptError):
    """Text, a token file or a tokenizer that cannot be used as it is."""

    exit_code = 3


class CheckpointError(JaxgptError):
    """A checkpoint or weight file that is missing, damaged, or does not fit."""

    exit_code = 4


class NonFiniteError(JaxgptError):
    """A loss or gradient that is NaN or infinite."""

    exit_code = 5


class ResourceError(JaxgptError):
    """More memory or disk than there is."""

    exit_code = 6
