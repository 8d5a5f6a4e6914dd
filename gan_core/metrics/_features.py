"""What every metric asks of its features before it starts, and the blocks that it works through."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

AT_ONCE = 2**23  # numbers in a block of features: 64 MiB in float64


def usable(metric: str, groups: Mapping[str, Shaped[Tensor, "..."]], *, at_least: int = 2) -> list[Float[Tensor, "count dimensions"]]:
    """The groups as [count, dimensions], all in the widest of their types and at least float32.

    Every group but `fake` is of real images and must vary: features that are constant measure nothing.

    Raises:
        ValueError: a group is not of floating-point numbers, has fewer than `at_least` rows, holds NaN or infinity, or is constant
            though real; or the groups have different dimensions.
    """
    flat = {name: _as_rows(metric, name, features, at_least) for name, features in groups.items()}
    widths = {name: features.shape[1] for name, features in flat.items()}
    if len(set(widths.values())) > 1:
        given = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise ValueError(f"{metric}: the features have different dimensions ({given}); take all of them from one extractor")
    for name, features in flat.items():
        _require_finite(metric, name, features)
        if name != "fake" and len(features) > 1:
            _require_varied(metric, name, features)
    dtype = torch.float32
    for features in flat.values():
        dtype = torch.promote_types(dtype, features.dtype)
    return [features.to(dtype) for features in flat.values()]


def rows_at_once(dimensions: int, most: int) -> int:
    """How many rows of so many dimensions make a block: `most`, but fewer where they would be more than AT_ONCE numbers."""
    return max(1, min(most, AT_ONCE // dimensions))


def slices(count: int, size: int) -> list[slice]:
    """Consecutive parts of `count` rows, `size` long but the last."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


@contextmanager
def full_precision() -> Iterator[None]:
    """No TensorFloat-32: with its 10 bits near neighbours cannot be told from far ones."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _as_rows(metric: str, name: str, features: Tensor, at_least: int) -> Tensor:
    if not features.dtype.is_floating_point:
        raise ValueError(f"{metric}: {name} features must be floating-point numbers, given {features.dtype}; give features.float()")
    if features.ndim < 2 or not features[:1].numel():
        given = "none" if features.ndim and not len(features) else f"shape {tuple(features.shape)}"
        raise ValueError(f"{metric}: {name} features must be [count, dimensions], at least {at_least} x 1, given {given}")
    if len(features) < at_least:
        raise ValueError(f"{metric}: needs at least {at_least} {name} samples, given {len(features)}")
    return features.detach().flatten(1)


def _require_finite(metric: str, name: str, features: Tensor) -> None:
    bad = sum(int((~part.isfinite()).any(1).sum()) for part in features.split(rows_at_once(features.shape[1], 2048)))
    if bad:
        raise ValueError(
            f"{metric}: NaN or infinity in {bad} of {len(features)} {name} samples; all features must be finite "
            f"(a diverged generator, or an extractor that overflows in half precision?)"
        )


def _require_varied(metric: str, name: str, features: Tensor) -> None:
    if all(bool((part == features[0]).all()) for part in features.split(rows_at_once(features.shape[1], 2048))):
        raise ValueError(
            f"{metric}: all {len(features)} {name} samples have the same features (total variance 0); "
            f"give different images, or an extractor that tells them apart"
        )
