"""How many classes the generator reaches and how evenly, by a classifier's verdicts: the Stacked-MNIST protocol (1712.04086)."""

import torch
from jaxtyping import Float64, Shaped
from torch import Tensor

from gan_core import distributed


def evaluate(
    classes: Shaped[Tensor, " fake"],
    *,
    num_classes: int,
    extractor: str,
    real_frequencies: Shaped[Tensor, " classes"] | None = None,
) -> dict[str, float]:
    """`modes_<extractor>`: classes with at least one fake; `reverse_kl_<extractor>`: KL(fakes' classes || reals' classes) in nats.

    `classes` are predicted class numbers of the fakes, 0 to num_classes - 1 (of Stacked-MNIST 1,000: 100 a + 10 b + c).
    `real_frequencies` are the reals' class counts or shares, equal ones by default. The divergence is 0 where the frequencies are equal and
    log(num_classes) where all fakes are of one of equally likely classes; few fakes raise it, by about (classes - 1) / (2 fakes).

    Raises:
        ValueError: no fakes, classes that are no integers or out of range, frequencies that are negative, of another number, or 0 for
            a class that has fakes, where the divergence is infinite.

    Source: Lin et al. 2018, 1712.04086, section 4.2 (26,000 samples); Srivastava et al. 2017, 1705.07761.
    """
    counts = _counts(classes, num_classes)
    return {
        f"modes_{extractor}": float((counts > 0).sum()),
        f"reverse_kl_{extractor}": reverse_kl(counts, real_frequencies),
    }


def reverse_kl(fake_counts: Shaped[Tensor, " classes"], real_frequencies: Shaped[Tensor, " classes"] | None = None) -> float:
    """KL(fakes || reals) in nats between class histograms, which need not be normalised; reals are even by default.

    Classes without fakes add nothing.

    Raises:
        ValueError: as `evaluate`.
    """
    reals = torch.ones_like(fake_counts) if real_frequencies is None else real_frequencies.to(fake_counts.device)
    if reals.shape != fake_counts.shape:
        raise ValueError(f"class_coverage: {len(reals)} real frequencies for {len(fake_counts)} classes; give one for each")
    p, q = (_normalised(name, values) for name, values in (("fake", fake_counts), ("real", reals)))
    impossible = ((q == 0.0) & (p > 0.0)).nonzero()[:, 0].tolist()
    if impossible:
        raise ValueError(
            f"class_coverage: the divergence is infinite, for classes {impossible[:5]} have fakes but a real frequency of 0; "
            f"count the reals with the same classifier, and add 1 to each class if some stay empty"
        )
    reached = p > 0.0
    return max(float((p[reached] * (p[reached] / q[reached]).log()).sum()), 0.0)


def _normalised(name: str, values: Tensor) -> Float64[Tensor, " classes"]:
    values = values.double()
    if not (bool(values.isfinite().all()) and float(values.min()) >= 0.0 and float(values.sum()) > 0.0):
        raise ValueError(f"class_coverage: {name} frequencies must be 0 or more, finite and not all 0, given {values[:5].tolist()} ...")
    return values / values.sum()


def _counts(classes: Tensor, num_classes: int) -> Tensor:
    if classes.dtype.is_floating_point or classes.dtype.is_complex or classes.dtype == torch.bool:
        raise ValueError(f"class_coverage: classes must be integers, given {classes.dtype}; give logits.argmax(1)")
    if not len(classes):
        raise ValueError("class_coverage: no fakes; give at least one")
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"class_coverage: classes must be from 0 to {num_classes - 1}, given {low} to {high}")
    [part] = distributed.my_part(classes.long().tensor_split(distributed.world_size()))
    return distributed.sum_over_ranks(torch.bincount(part, minlength=num_classes))
