"""Scores of a generator: real and fake images become features once, and every metric reads those.

Ranks share the work: each extracts its part of the images, all gather, and metrics divide their rows among them.
"""

import os
import warnings
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gan_core import distributed, registry, sampling
from gan_core.data._cache import folder as cache_folder
from gan_core.datatypes import ImageDataset
from gan_core.extractors._extractor import Extractor, Features
from gan_core.measures import MEASURES, Evidence
from gan_core.provenance import Provenance
from gan_core.sections import ExtractorConfig

AT_ONCE = 256
OTHER_KINDS = {
    "mixture",
    "stacks",
    "pixels",
    "fake_labels",
}  # needs of metrics that are of other data, or of another extractor, by their nature


class Scores(NamedTuple):
    """What was measured, what could not be (metric: reason), and how: numbers are comparable where `provenance` is the same."""

    values: dict[str, float]
    failures: dict[str, str]
    provenance: Provenance


class Judge:
    """Scores generators against images of a data set, by one extractor and the metrics named.

    `real` are the image numbers to compare with, `held_out` numbers of images that were not trained on, for the metrics that ask
    whether training images were copied. With `conditional` fakes are made of the data's classes, and `score` is told which.
    Real features are computed at the first use, and kept beside the decoded images ($RAYGAN_CACHE) by the content of the data.

    Raises:
        ValueError: a metric needs what the extractor or the data set does not have.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        extractor: Extractor,
        metrics: Iterable[str],
        *,
        real: Int64[Tensor, " real"],
        held_out: Int64[Tensor, " held_out"] | None,
        split: str,
        seed: int,
        conditional: bool = False,
    ) -> None:
        self.conditional = conditional
        self.dataset, self.extractor, self.metrics = dataset, extractor, tuple(metrics)
        self.real, self.held_out, self.split, self.seed = real, held_out, split, seed
        self._features: dict[str, Features] = {}
        _require_measurable(self)

    def score(self, fakes: Iterable[Float[Tensor, "_ C H W"]], count: int, labels: Int64[Tensor, " fake"] | None = None) -> Scores:
        """Judge `count` fake images; `fakes` gives this rank's share of them in batches, ranks in order, the last padded.

        `labels` are the classes that all of them were made of, if the judge is `conditional`.

        Raises:
            ValueError: fakes that the extractor refuses, on any rank: NaN, another shape, values outside [-1, 1].
        """
        fake = self._fake_features(fakes, count)
        asked = any("held_out" in MEASURES[name].needs for name in self.metrics)
        held_out = self._real_features("held_out", self.held_out).features if asked and self.held_out is not None else None
        real = self._real_features("real", self.real)
        evidence = Evidence(
            extractor=self.extractor.name,
            real=real.features,
            fake=fake.features,
            real_probabilities=real.probabilities,
            fake_probabilities=fake.probabilities,
            held_out=held_out,
            mixture=self.dataset.mixture,
            fake_labels=labels,
        )
        values: dict[str, float] = {}
        failures: dict[str, str] = {}
        for name in self.metrics:
            try:
                values |= MEASURES[name].run(evidence)
            except ValueError as error:  # what one metric cannot judge does not silence the others
                failures[name] = str(error)
        return Scores(values, failures, self.provenance(count))

    def require_enough(self, count: int) -> None:
        """Check that this many fakes, and the real images there are, suffice for every metric.

        Raises:
            ValueError: too few for one of them.
        """
        for name in self.metrics:
            if reason := _too_few(name, self.extractor, len(self.real), count):
                raise ValueError(reason)

    def _fake_features(self, fakes: Iterable[Tensor], count: int) -> Features:
        parts: list[Features] = []
        refused = ""
        for batch in fakes:
            try:
                parts.append(self.extractor(as_pixels(batch) if self.dataset.images.dtype == torch.uint8 else batch))
            except ValueError as error:
                refused = str(error)
                break
        if distributed.any_rank(bool(refused), self.extractor.device):
            raise ValueError(refused or f"extractor {self.extractor.name} refused the images of another rank")
        return _gathered(parts, count)

    def _real_features(self, name: str, indices: Tensor) -> Features:
        if name not in self._features:
            self._features[name] = self._cached(indices)
        return self._features[name]

    def _cached(self, indices: Tensor) -> Features:
        """Features of real images, from the cache where every rank finds them there, else computed together."""
        chosen = sha256(indices.numpy().tobytes()).hexdigest()
        key = sha256(f"{self.dataset.content_hash} {self.extractor.weights_hash} {chosen}".encode()).hexdigest()[:24]
        path = cache_folder(None) / f"features-{key}.safetensors"
        found = _read(path, self.extractor.device, len(indices))
        if not distributed.any_rank(found is None, self.extractor.device):
            assert found is not None, "every rank has read them"
            return found
        share = -(-len(indices) // distributed.world_size())
        mine = indices[torch.arange(share).add(sampling.first_of_share(share)).clamp(max=len(indices) - 1)]
        parts = []
        for places in mine.split(AT_ONCE):
            parts.append(self.extractor(self.dataset.batch(places, self.extractor.device, torch.float32, labelled=False).inputs))
        features = _gathered(parts, len(indices))
        _write(path, features)
        return features

    def provenance(self, count: int) -> Provenance:
        """What scores of `count` fakes come from."""
        return Provenance(
            extractor=self.extractor.name,
            weights_hash=self.extractor.weights_hash,
            resize=self.extractor.resize,
            dtype=self.extractor.dtype,
            real_count=len(self.real),
            fake_count=count,
            split=self.split,
            seed=self.seed,
            content_hash=self.dataset.content_hash,
        )


def as_pixels(images: Float[Tensor, "batch C H W"]) -> Float[Tensor, "batch C H W"]:
    """Images in [-1, 1] with the 256 levels that a PNG would keep: so a generator and its saved images score the same. NaN stays NaN."""
    return ((images + 1.0) * 127.5).round().clamp(0.0, 255.0) / 127.5 - 1.0


def _gathered(parts: list[Features], count: int) -> Features:
    """The first `count` features of all ranks."""
    features = distributed.gather(torch.cat([part.features for part in parts]))[:count]
    classes = [part.probabilities for part in parts if part.probabilities is not None]
    return Features(features, distributed.gather(torch.cat(classes))[:count] if classes else None)


def _read(path: Path, device: torch.device, count: int) -> Features | None:
    """The features of `count` images from the cache; None where they are not there, or damaged."""
    try:
        found = load_file(path, device=str(device))
    except (OSError, SafetensorError):
        return None
    features, probabilities = found.get("features"), found.get("probabilities")
    fine = features is not None and features.ndim == 2 and len(features) == count
    return Features(features, probabilities) if features is not None and fine else None


def _write(path: Path, features: Features) -> None:
    """The cache entry appears when it is complete; a folder that cannot be written costs the next run some time, and nothing else."""
    tensors = {"features": features.features} | ({} if features.probabilities is None else {"probabilities": features.probabilities})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
        temporary.replace(path)
    except OSError as error:
        warnings.warn(
            f"features of real images could not be kept in {path.parent} ({error}); they are computed again next time", stacklevel=2
        )


def build_extractor(config: ExtractorConfig, dataset: ImageDataset, device: torch.device) -> Extractor:
    """The extractor that `config` names, for images of this data set.

    Raises:
        ValueError: the data set is not one for it, or its weights are missing.
    """
    build = registry.find("gan_core.extractors", config.name).build
    extractor: Extractor = build(dataset, device=device, cache_dir=cache_folder(None) / "extractors", **config.options)
    return extractor


def unmeasurable(
    dataset: ImageDataset, extractor: Extractor, *, real: int, fake: int, held_out: Tensor | None, conditional: bool = False
) -> dict[str, str]:
    """The metrics that so many images and this extractor cannot be measured by, each with the reason."""
    found = {
        name: _lacks(name, dataset, extractor, held_out, conditional=conditional) or _too_few(name, extractor, real, fake)
        for name in MEASURES
    }
    return {name: reason for name, reason in found.items() if reason}


def _too_few(metric: str, extractor: Extractor, real: int, fake: int) -> str:
    fewest = MEASURES[metric].fewest
    try:
        if fewest is not None:
            fewest(real, fake, extractor.dimensions)
    except ValueError as error:
        return str(error)
    return ""


def require_data(metrics: Iterable[str], dataset: ImageDataset, held_out: Tensor | None, *, conditional: bool) -> None:
    """Check what can be known before there is an extractor, which may take minutes to train.

    Raises:
        ValueError: a metric is unknown, or of other data than these.
    """
    for name in metrics:
        registry.require_choice("metric", name, MEASURES)
        lacking = _lacking_data(dataset, held_out, conditional=conditional)
        for need in MEASURES[name].needs:
            if need in lacking and lacking[need][0]:
                raise ValueError(f"metric {name} cannot be measured: {lacking[need][1]}")


def _lacking_data(dataset: ImageDataset, held_out: Tensor | None, *, conditional: bool) -> dict[str, tuple[bool, str]]:
    return {
        "held_out": (held_out is None, "no images are known that training did not see; judge a run by its own data"),
        "fake_labels": (not conditional, "fakes are not made of classes; set network.conditional=true"),
        "mixture": (dataset.mixture is None, f"the data set {dataset.name} is not a known mixture of points"),
    }


def _lacks(metric: str, dataset: ImageDataset, extractor: Extractor, held_out: Tensor | None, *, conditional: bool) -> str:
    """Why the metric cannot be measured, or an empty text."""
    lacking = _lacking_data(dataset, held_out, conditional=conditional) | {
        "fake_probabilities": (not extractor.num_classes, f"the extractor {extractor.name} has no classes; lenet and inception have"),
        "pixels": (extractor.name != "pixels" or not extractor.bounded, "it is of pixels; set extractor.name=pixels"),
        "stacks": (extractor.name != "stacked_lenet", "it counts the modes of Stacked-MNIST; set extractor.name=stacked_lenet"),
    }
    return next((reason for lacks, reason in map(lacking.__getitem__, MEASURES[metric].needs) if lacks), "")


def _require_measurable(judge: Judge) -> None:
    """Check the metrics' names, and that there is what each of them reads."""
    for name in judge.metrics:
        registry.require_choice("metric", name, MEASURES)
        if reason := _lacks(name, judge.dataset, judge.extractor, judge.held_out, conditional=judge.conditional):
            raise ValueError(f"metric {name} cannot be measured: {reason}")
