"""Scores and pictures of the averaged generator: the same real images and the same seeds each time, so that moments can be compared."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from gan_core import distributed, pictures, sampling
from gan_core.building import Parts
from gan_core.config import GanConfig
from gan_core.datatypes import Batch, ImageDataset
from gan_core.judge import Judge, Scores, build_extractor, require_data
from gan_core.measures import scores_of
from gan_core.sections import DEFAULT_METRICS

FIRST_SEED = 2**32  # image seeds from here on are used for scores, smaller ones for pictures
GENERATE_AT_ONCE = 256
PREFIX = "quality/"


class EvaluationError(RuntimeError):
    """The score that the config names as its objective could not be measured."""


def metrics_of(config: GanConfig, dataset: ImageDataset) -> tuple[str, ...]:
    """`evaluation.metrics`, or where that is open the kernel distance, and of points from a known mixture the modes too."""
    if config.evaluation.metrics is not None:
        return config.evaluation.metrics
    return DEFAULT_METRICS[:1] if dataset.mixture is None else DEFAULT_METRICS


def build_judge(
    config: GanConfig, dataset: ImageDataset, train: Int64[Tensor, " train"], held_out: Int64[Tensor, " held_out"], device: torch.device
) -> Judge:
    """What scores generators of this config: `evaluation.real_count` of the training images, by the extractor and metrics named there.

    Raises:
        ValueError: a metric cannot be measured with this extractor, these data or so few images.
    """
    asked, unseen = config.evaluation, held_out if len(held_out) else None
    require_data(metrics_of(config, dataset), dataset, unseen, conditional=config.network.conditional)
    extractor = build_extractor(asked.extractor, dataset, device)
    count = len(train) if asked.real_count is None else min(asked.real_count, len(train))
    chosen = train[sampling.evaluation_indices(config.seed, count=count, dataset_size=len(train))].sort().values
    judge = Judge(
        dataset,
        extractor,
        metrics_of(config, dataset),
        real=chosen,
        held_out=unseen,
        split="train",
        seed=config.seed,
        conditional=config.network.conditional,
    )
    judge.require_enough(asked.fake_count)
    return judge


def objective(config: GanConfig, dataset: ImageDataset) -> tuple[str, float]:
    """The score that ranks checkpoints, such as `quality/kid_pixels`, and its sign: 1 where smaller is better, else -1.

    Raises:
        ValueError: `evaluation.objective` is of a metric that these data do not have.
    """
    directions = scores_of(metrics_of(config, dataset), config.evaluation.extractor.name)
    name = config.evaluation.objective or next(name for name, better in directions.items() if better)
    if name not in directions:
        raise ValueError(f"evaluation.objective: {name} cannot be measured of {dataset.name}; the scores here: {', '.join(directions)}")
    return f"{PREFIX}{name}", 1.0 if directions[name] == "lower" else -1.0


def score(judge: Judge, parts: Parts, config: GanConfig) -> Scores:
    """Scores of `evaluation.fake_count` images, named `quality/*`; ranks share the work and get the same values."""
    count = config.evaluation.fake_count
    labels = _labels(judge, parts, torch.arange(count)) if config.network.conditional else None
    try:
        found = judge.score(_fakes(judge, parts, config, count), count, labels)
    except ValueError as error:  # images that no metric can read: NaN, or values out of range
        found = Scores({}, dict.fromkeys(judge.metrics, str(error)), judge.provenance(count))
    return found._replace(values={f"{PREFIX}{key}": value for key, value in found.values.items()})


def require_objective(scores: Scores, config: GanConfig) -> None:
    """Check that the objective, if the config names one, was measured.

    Raises:
        EvaluationError: it was not, and why.
    """
    named = config.evaluation.objective
    if named is not None and f"{PREFIX}{named}" not in scores.values:
        reasons = "; ".join(f"{metric}: {reason}" for metric, reason in scores.failures.items())
        raise EvaluationError(f"evaluation.objective: {named} could not be measured ({reasons or 'too few images'})")


def _fakes(judge: Judge, parts: Parts, config: GanConfig, count: int) -> Iterator[Float[Tensor, "batch C H W"]]:
    """This rank's share of the images to score; where classes matter, they follow those of the real images."""
    share = -(-count // distributed.world_size())
    first = sampling.first_of_share(share)
    labels = _labels(judge, parts, torch.arange(first, first + share)) if config.network.conditional else None
    return _generated(parts, config, FIRST_SEED + first, share, labels)


def _labels(judge: Judge, parts: Parts, places: Int64[Tensor, " fakes"]) -> Int64[Tensor, " fakes"]:
    """The classes of the fakes in these places: those of the real images, in turn."""
    assert parts.dataset.labels is not None, "the config asks for labels, and they were found"
    return parts.dataset.labels[judge.real[places % len(judge.real)]].to(parts.device)


def picture(parts: Parts, config: GanConfig) -> UInt8[np.ndarray, "rows columns 3"]:
    """Images of seeds 0, 1, 2 ...; with classes, a column for each."""
    count, dataset, conditional = config.schedule.sample_count, parts.dataset, config.network.conditional
    labels = torch.arange(count, device=parts.device) % dataset.num_classes if conditional else None
    few = torch.arange(min(count, len(dataset)))
    real = dataset.batch(few, parts.device, parts.dtype, labelled=False)
    columns = dataset.num_classes if conditional else None
    return pictures.picture(torch.cat(list(_generated(parts, config, 0, count, labels))), real.inputs, columns=columns)


@torch.no_grad()
def _generated(
    parts: Parts, config: GanConfig, first_seed: int, count: int, labels: Int64[Tensor, " count"] | None
) -> Iterator[Float[Tensor, "batch C H W"]]:
    """Images of `count` consecutive seeds by the averaged generator, in batches."""
    z = sampling.latents_of_seeds(first_seed, count, z_dim=config.network.z_dim).to(parts.device, parts.dtype)
    for batch in Batch(z, labels).split(GENERATE_AT_ONCE):
        yield parts.g_ema.network(batch.inputs, batch.labels)
