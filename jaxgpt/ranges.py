"""Settings as the numbers that a device computes with. Standard library only."""

import math
import struct

from jaxgpt.errors import ConfigError

_LEAST = 2.0**-126  # what is smaller counts as 0 on CPUs and TPUs


def as_float32(value: float) -> float:
    """The float32 nearest to `value`: 0 below 1.2e-38, infinite above 3.4e38."""
    try:
        (rounded,) = struct.unpack("f", struct.pack("f", value))
    except OverflowError:
        return math.copysign(math.inf, value)
    return 0.0 if abs(rounded) < _LEAST else rounded


def check_float(name: str, value: float) -> None:
    """Raise ConfigError if `value` is not finite in float32, or 0 there and nowhere else."""
    if not math.isfinite(value):
        raise ConfigError(f"{name} is {value}; it must be a finite number")
    rounded = as_float32(value)
    if math.isinf(rounded) or (rounded == 0 and value != 0):
        raise ConfigError(
            f"{name} is {value}, which is {'infinite' if rounded else '0'} in float32; it must be "
            "from 1.2e-38 to 3.4e+38 in size, or 0 where that is allowed"
        )
