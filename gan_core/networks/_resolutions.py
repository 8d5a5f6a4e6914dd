"""Resolutions that a network can make, and the error for those it cannot."""

from collections.abc import Sequence

POWERS = [2**exponent for exponent in range(2, 11)]  # 4 to 1024


def require_resolution(network: str, resolution: int, known: Sequence[int]) -> None:
    """Check that `resolution`, in pixels, is one of `known`.

    Raises:
        ValueError: it is not; the message names the two nearest.
    """
    if resolution not in known:
        near = sorted(sorted(known, key=lambda one: abs(one - resolution))[:2])
        raise ValueError(f"{network} cannot make resolution {resolution}; set data.resolution to one of {list(known)} (nearest: {near})")
