"""One number to rank generators by, which neither beautiful copies of one image, nor diverse noise, nor blur can win."""

import math


def evaluate(
    *,
    precision: float,
    recall: float,
    coverage: float,
    precision_error: float = 0.0,
    recall_error: float = 0.0,
    coverage_error: float = 0.0,
) -> dict[str, float]:
    """`score`: the harmonic mean 3 / (1/p + 1/r + 1/c) of precision, recall and coverage, from 0 to 1, more is better.

    Precision (1904.06991) is the share of fakes within the real images' neighbourhoods: fidelity. Recall (1904.06991) is the share of real
    images within the fakes' neighbourhoods, and coverage (2002.09797) the share that have a fake nearby: diversity, each blind to what
    the other sees. One outlying fake can raise the recall, but not the coverage; fakes that all lie near the data's middle, as blurred
    images do to a random network, can cover the reals, but have small neighbourhoods and so no recall.

    The score grows with each of them and is never above three times the smallest: a collapsed generator of perfect fidelity has p = 1
    and c near 0, hence a score below 3 c. It is 0 where one is 0. All depend on the extractor and on the counts of images.

    `score_error` is the standard error that follows from those of the three, taken as independent, to first order.

    Source: the harmonic mean of precision and recall as in van Rijsbergen's F measure; for generators 1806.00035, section 3.3.

    Raises:
        ValueError: a value that is not between 0 and 1.
    """
    shares = {"precision": precision, "recall": recall, "coverage": coverage}
    for name, value in shares.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"score: {name} must be between 0 and 1, given {value}")
    if min(shares.values()) == 0.0:
        return {"score": 0.0, "score_error": 0.0}
    mean = len(shares) / sum(1.0 / value for value in shares.values())
    slopes = [(mean / value) ** 2 / len(shares) for value in shares.values()]
    errors = (precision_error, recall_error, coverage_error)
    return {"score": mean, "score_error": math.hypot(*(slope * error for slope, error in zip(slopes, errors, strict=True)))}
