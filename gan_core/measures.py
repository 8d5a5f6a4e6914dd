"""Every metric that a generator can be scored by, in one table: what it reads, how it is called, and which direction is better."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor

from gan_core.datatypes import Mixture
from gan_core.metrics import (
    birthday_paradox,
    class_agreement,
    class_coverage,
    classifier_score,
    density_coverage,
    frechet_distance,
    kernel_distance,
    memorisation,
    mode_coverage,
    parzen_window,
    precision_recall,
    score,
    stacked_mnist,
)
from gan_core.metrics._neighbours import Manifold, manifold, require_neighbours

Better = Literal["lower", "higher"]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What metrics read, by one extractor. Probabilities are None where it has no classes, `held_out` without such images, `fake_labels`
    where fakes were not made of classes.
    """

    extractor: str
    real: Float[Tensor, "real dimensions"]
    fake: Float[Tensor, "fake dimensions"]
    real_probabilities: Float[Tensor, "real classes"] | None = None
    fake_probabilities: Float[Tensor, "fake classes"] | None = None
    held_out: Float[Tensor, "held_out dimensions"] | None = None
    mixture: Mixture | None = None
    fake_labels: Int64[Tensor, " fake"] | None = None

    @cached_property
    def manifold(self) -> Manifold:
        """Neighbours of all images, found in one pass for all metrics that need them."""
        return manifold(self.real, self.fake)


class Measure(NamedTuple):
    """`run` gives the scores; `needs` names what may be absent (judge.py says what each is); `better` says which scores there are.

    Names of scores end in the extractor's, but for those in `plain`. `fewest` raises ValueError where so many reals and so many fakes
    are too few for features of so many dimensions.
    """

    run: Callable[[Evidence], dict[str, float]]
    better: dict[str, Better | None]
    needs: tuple[str, ...] = ()
    plain: bool = False
    fewest: Callable[[int, int, int], None] | None = None


def _frechet(evidence: Evidence) -> dict[str, float]:
    frechet_distance.require_enough(min(len(evidence.real), len(evidence.fake)), evidence.real.shape[1])
    return frechet_distance.evaluate(evidence.real, evidence.fake, extractor=evidence.extractor)


def _precision(evidence: Evidence) -> dict[str, float]:
    return precision_recall.evaluate(evidence.real, evidence.fake, extractor=evidence.extractor, found=evidence.manifold)


def _coverage(evidence: Evidence) -> dict[str, float]:
    return density_coverage.evaluate(evidence.real, evidence.fake, extractor=evidence.extractor, found=evidence.manifold)


def _enough_neighbours(real: int, fake: int, _: int) -> None:
    require_neighbours(min(real, fake))


def _score(evidence: Evidence) -> dict[str, float]:
    found, of = {**_precision(evidence), **_coverage(evidence)}, evidence.extractor
    shares = ("precision", "recall", "coverage")
    return score.evaluate(**{f"{name}{end}": found[f"{name}_{of}{end}"] for name in shares for end in ("", "_error")})


def _classes(evidence: Evidence) -> dict[str, float]:
    assert evidence.fake_probabilities is not None
    assert evidence.real_probabilities is not None
    classes = evidence.fake_probabilities.shape[1]
    frequencies = evidence.real_probabilities.argmax(1).bincount(minlength=classes)
    return class_coverage.evaluate(
        evidence.fake_probabilities.argmax(1), num_classes=classes, extractor=evidence.extractor, real_frequencies=frequencies
    )


def _agreement(evidence: Evidence) -> dict[str, float]:
    assert evidence.fake_probabilities is not None
    assert evidence.fake_labels is not None
    return class_agreement.evaluate(evidence.fake_probabilities.argmax(1), evidence.fake_labels, extractor=evidence.extractor)


def _classifier(evidence: Evidence) -> dict[str, float]:
    assert evidence.fake_probabilities is not None
    return classifier_score.evaluate(evidence.fake_probabilities, extractor=evidence.extractor)


def _memorisation(evidence: Evidence) -> dict[str, float]:
    assert evidence.held_out is not None
    return memorisation.evaluate(evidence.real, evidence.held_out, evidence.fake, extractor=evidence.extractor)


def _modes(evidence: Evidence) -> dict[str, float]:
    assert evidence.mixture is not None
    return mode_coverage.evaluate(evidence.fake.unflatten(1, (2, 1, 1)), evidence.mixture)


def _stacked(evidence: Evidence) -> dict[str, float]:
    assert evidence.fake_probabilities is not None
    return stacked_mnist.of_modes(evidence.fake_probabilities.argmax(1).cpu())


def _parzen(evidence: Evidence) -> dict[str, float]:
    assert evidence.held_out is not None
    half = len(evidence.held_out) // 2
    to_choose_by, to_score = ((part + 1.0) / 2.0 for part in (evidence.held_out[:half], evidence.held_out[half:]))
    return parzen_window.evaluate(to_score, (evidence.fake.clamp(-1.0, 1.0) + 1.0) / 2.0, to_choose_by)


MEASURES: dict[str, Measure] = {
    "frechet_distance": Measure(
        _frechet, {"fd": "lower"}, fewest=lambda real, fake, dimensions: frechet_distance.require_enough(min(real, fake), dimensions)
    ),
    "kernel_distance": Measure(
        lambda evidence: kernel_distance.evaluate(evidence.real, evidence.fake, extractor=evidence.extractor), {"kid": "lower"}
    ),
    "precision_recall": Measure(_precision, {"precision": "higher", "recall": "higher"}, fewest=_enough_neighbours),
    "density_coverage": Measure(_coverage, {"density": None, "coverage": "higher"}, fewest=_enough_neighbours),
    "score": Measure(_score, {"score": "higher"}, plain=True, fewest=_enough_neighbours),
    "classifier_score": Measure(_classifier, {"classifier_score": "higher"}, needs=("fake_probabilities",)),
    "class_coverage": Measure(_classes, {"modes": "higher", "reverse_kl": "lower"}, needs=("fake_probabilities",)),
    "class_agreement": Measure(_agreement, {"class_agreement": "higher"}, needs=("fake_labels", "fake_probabilities")),
    "memorisation": Measure(_memorisation, {"memorisation": None, "copies": "lower"}, needs=("held_out",)),
    "birthday_paradox": Measure(
        lambda evidence: birthday_paradox.evaluate(evidence.real, evidence.fake, extractor=evidence.extractor),
        {"duplicates": "lower", "support": "higher"},
        fewest=lambda real, fake, _: birthday_paradox.require_enough(real, fake),
    ),
    "stacked_mnist": Measure(
        _stacked, {"modes_stacked_mnist": "higher", "reverse_kl_stacked_mnist": "lower"}, needs=("stacks",), plain=True
    ),
    "parzen_window": Measure(_parzen, {"parzen_pixels": "higher", "parzen_sigma": None}, needs=("held_out", "pixels"), plain=True),
    "mode_coverage": Measure(
        _modes, {"modes": "higher", "good_points": "higher", "mode_reverse_kl": "lower"}, needs=("mixture",), plain=True
    ),
}


def scores_of(metrics: tuple[str, ...], extractor: str) -> dict[str, Better | None]:
    """The names of the scores that these metrics give by this extractor, with the direction that is better."""
    return {
        name if MEASURES[metric].plain else f"{name}_{extractor}": better
        for metric in metrics
        for name, better in MEASURES[metric].better.items()
    }
