"""Classifier score: are images recognisable, and of all classes? The Inception score (1606.03498), with whatever classifier."""

import math

import torch
from jaxtyping import Float64, Shaped
from torch import Tensor

from gan_core import distributed
from gan_core.metrics._features import usable

SPLITS = 10
SUM_WITHIN = 1e-2  # half precision adds up to 1 no better


def evaluate(probabilities: Shaped[Tensor, "fake classes"], *, extractor: str, splits: int = SPLITS) -> dict[str, float]:
    """`classifier_score_<extractor>`: exp(E_x KL(p(y|x) || p(y))) from a classifier's probabilities of fakes, between 1 and the classes.

    The mean over `splits` parts of consecutive fakes, each with its own p(y), so the fakes must be in random order: a part that lacks
    a class scores lower. It depends on the size of the parts: compare equal counts and splits (the paper: 50,000 images, 10 parts).
    `classifier_score_<extractor>_error` is std / sqrt(splits); papers often give the std itself. Only Inception-v3's is the Inception
    score. Computed in float64.

    With torch.distributed, called with the same arguments on all ranks, which share the parts.

    Raises:
        ValueError: fewer than two splits, or than two fakes for each; values that are no probabilities.

    Source: Salimans et al. 2016, 1606.03498, section 4.
    """
    if splits < 2:
        raise ValueError(f"classifier_score: the error needs at least 2 splits, given {splits}; the paper has 10")
    [rows] = usable("classifier_score", {"fake": probabilities}, at_least=2 * splits)
    sums = rows.sum(1, dtype=torch.float64)
    if float(rows.min()) < 0.0 or float((sums - 1.0).abs().max()) > SUM_WITHIN:
        raise ValueError(
            f"classifier_score: needs probabilities that add up to 1 for each image, given values from {float(rows.min()):.4g} "
            f"and sums from {float(sums.min()):.4g} to {float(sums.max()):.4g}; give logits.softmax(1)"
        )
    scores = torch.zeros(splits, dtype=torch.float64, device=rows.device)
    for split in distributed.my_part(range(splits)):
        scores[split] = _score(rows[split * len(rows) // splits : (split + 1) * len(rows) // splits].double())
    scores = distributed.sum_over_ranks(scores)
    name = f"classifier_score_{extractor}"
    return {name: float(scores.mean()), f"{name}_error": float(scores.std()) / math.sqrt(splits)}


def _score(probabilities: Float64[Tensor, "images classes"]) -> Float64[Tensor, ""]:
    """The mean divergence is the entropy of the mean less the mean entropy."""
    probabilities = probabilities / probabilities.sum(1, keepdim=True)
    marginal = probabilities.mean(0)
    entropies = torch.special.entr(marginal).sum(), torch.special.entr(probabilities).sum(1).mean()
    return torch.exp(entropies[0] - entropies[1])
