"""One number to rank generators by, which neither beautiful copies of one image nor diverse noise can win."""

import math


def evaluate(*, precision: float, coverage: float, precision_error: float = 0.0, coverage_error: float = 0.0) -> dict[str, float]:
    """`score`: the harmonic mean 2 p c / (p + c) of precision p and coverage c, from 0 to 1, more is better.

    Precision (1904.06991) is the share of fakes within the real images' neighbourhoods: fidelity. Coverage (2002.09797) is the share of
    real images that have a fake nearby: diversity. The score grows with each of them and is never above twice the smaller: a collapsed
    generator of perfect fidelity has p = 1 and c near 0, hence a score near 2 c. It is 0 where either is 0. Both, and so the
    score, depend on the extractor and on the counts of images.

    `score_error` is the standard error that follows from those of p and c, taken as independent, to first order.

    Source: the harmonic mean of precision and recall as in van Rijsbergen's F measure; for generators 1806.00035, section 3.3.

    Raises:
        ValueError: a value that is not between 0 and 1.
    """
    for name, value in (("precision", precision), ("coverage", coverage)):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"score: {name} must be between 0 and 1, given {value}")
    total = precision + coverage
    if total == 0.0:
        return {"score": 0.0, "score_error": 0.0}
    by_precision, by_coverage = 2.0 * (coverage / total) ** 2, 2.0 * (precision / total) ** 2
    error = math.hypot(by_precision * precision_error, by_coverage * coverage_error)
    return {"score": 2.0 * precision * coverage / total, "score_error": error}
