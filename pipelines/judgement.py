"""What `raygan evaluate` does: targets judged by one Judge, a table for each, and the scores in MLflow with where they come from."""

import json
import shlex
import sys
from typing import NamedTuple

import torch
from torch import Tensor

from gan_core import registry, sampling
from gan_core.config import DataConfig
from gan_core.datatypes import ImageDataset
from gan_core.judge import OTHER_KINDS, Judge, Scores, build_extractor, unmeasurable
from gan_core.measures import MEASURES, scores_of
from gan_core.provenance import Provenance, require_same
from gan_core.sections import ExtractorConfig
from pipelines import environment, generators, targets, tracking
from pipelines.config import EvaluateConfig
from pipelines.targets import Place, Target
from pipelines.tracking import Tracker

MOST_FAKES = 10_000  # unless a config asks for more
HELD_OUT = 0.05  # where no config says what training held out


class Real(NamedTuple):
    """The real side: a data set, which of its images, and the images that training never saw, where that is known."""

    dataset: ImageDataset
    chosen: Tensor
    held_out: Tensor | None
    split: str


def judge(words: list[str], config: EvaluateConfig, *, best: bool) -> bool:
    """Judge every target that `words` name, print the scores and log them; returns whether a metric failed.

    Raises:
        ValueError: a target, the data or the settings are wrong, or the run has scores of this name that were measured otherwise.
    """
    if best:
        generators.require_runs(words)
    tracker = tracking.reach(config.mlflow.tracking_uri)
    found = [targets.find(word, tracker, best=best) for word in words]
    count = _fake_count(config, found)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    real = _real(config, found)
    labels = [target.labels(count, config.seed, Place(real.dataset, device)) for target in found]
    judge, left_out = _judge(config, real, found, device, count, conditional=all(each is not None for each in labels))
    for target in found:
        _require_comparable(tracker, target, config.name, judge.provenance(count))
    failed = False
    for target, asked in zip(found, labels, strict=True):
        scores = judge.score(target.draw(count, config.seed, Place(real.dataset, device)), count, asked)
        place, run_id = _log(tracker, target, config, scores)
        print(_table(target, judge, real, scores, place.page(run_id)), flush=True)
        failed = failed or bool(scores.failures)
    for name, reason in left_out.items():
        if not set(MEASURES[name].needs) & OTHER_KINDS:
            print(f"left out: {name}: {reason.removeprefix(f'{name}: ')}")
    return failed


def _fake_count(config: EvaluateConfig, found: list[Target]) -> int:
    """How many images of each target are judged."""
    fewest = min((target for target in found if target.available is not None), key=lambda target: target.available or 0, default=None)
    if fewest is None or fewest.available is None:
        return config.fake_count or MOST_FAKES
    if config.fake_count is not None and fewest.available < config.fake_count:
        raise ValueError(f"fake_count: {fewest.name} holds {fewest.available} images, fewer than {config.fake_count}; set fake_count")
    return config.fake_count or min(MOST_FAKES, fewest.available)


def _real(config: EvaluateConfig, found: list[Target]) -> Real:
    """The real images: those that `data` names, else those of the first target's training."""
    trained = next((target.config for target in found if target.config is not None), None)
    own = config.data is None or (trained is not None and config.data == trained.data)
    data = config.data or (trained.data if trained else None)
    if data is None:
        raise ValueError(f"data: {found[0].name} does not say what it was trained on; give data.name=... or data.path=...")
    dataset = _load(data)
    train, held_out = sampling.held_out_split(len(dataset), trained.diagnostics.held_out if trained and own else HELD_OUT)
    split = config.split or ("train" if own else "all")
    indices = {"train": train, "held_out": held_out, "all": torch.arange(len(dataset))}[split]
    count = config.real_count or len(indices)
    if count > len(indices):
        raise ValueError(f"real_count: {dataset.name} has {len(indices)} images in its split {split}, fewer than {count}")
    chosen = indices[sampling.evaluation_indices(config.seed, count=count, dataset_size=len(indices))].sort().values
    return Real(dataset, chosen, held_out if own and split == "train" else None, split)


def _load(data: DataConfig) -> ImageDataset:
    dataset: ImageDataset = registry.find("gan_core.data", data.name).load(**data.options)
    return dataset


def _judge(
    config: EvaluateConfig, real: Real, found: list[Target], device: torch.device, count: int, *, conditional: bool
) -> tuple[Judge, dict[str, str]]:
    """A judge for `count` fakes, and why metrics that nobody asked for are left out.

    The extractor is trained on the data that the targets were trained on, so that scores on other data stay comparable.
    """
    trained = next((target.config for target in found if target.config is not None), None)
    own = _load(trained.data) if trained is not None and config.data not in (None, trained.data) else real.dataset
    usual = "pixels" if own.mixture is not None else "lenet" if own.labels is not None else "random_conv"
    extractor = build_extractor(config.extractor or ExtractorConfig(name=usual), own, device)
    metrics, left_out = config.metrics, {}
    if metrics is None:
        left_out = unmeasurable(real.dataset, extractor, real=len(real.chosen), fake=count, held_out=real.held_out, conditional=conditional)
        metrics = tuple(name for name in MEASURES if name not in left_out)
    judge = Judge(
        real.dataset,
        extractor,
        metrics,
        real=real.chosen,
        held_out=real.held_out,
        split=real.split,
        seed=config.seed,
        conditional=conditional,
    )
    return judge, left_out


def _require_comparable(tracker: Tracker, target: Target, name: str, provenance: Provenance) -> None:
    """Scores of one name in one run are of one kind."""
    if target.run_id is None:
        return
    before = tracker.client.get_run(target.run_id).data.tags.get(f"raygan.provenance.{name}")
    if before is None:
        return
    try:
        require_same(Provenance.from_dict(json.loads(before)), provenance, f"{name}/* of run {target.run_id}")
    except ValueError as error:
        raise ValueError(f"{error}\nor log these under another name: name=...") from None


def _log(tracker: Tracker, target: Target, config: EvaluateConfig, scores: Scores) -> tuple[Tracker, str]:
    """Scores as metrics at the target's place on the clock; provenance as a tag, and both with all settings as a file."""
    run_id = target.run_id
    if run_id is None:
        tracker = tracking.connect(config.mlflow.tracking_uri, config.mlflow.experiment)
        tags = tracking.source_tags("evaluate", f"raygan {shlex.join(sys.argv[1:])}", environment.describe())
        run_id = tracker.client.create_run(tracker.experiment_id, run_name=f"evaluate {target.name}", tags=tags).info.run_id
    else:
        tracker = tracker._replace(experiment_id=tracker.client.get_run(run_id).info.experiment_id)
    tracking.log_values(tracker, run_id, {f"{config.name}/{key}": value for key, value in scores.values.items()}, step=target.images_seen)
    tracker.client.set_tag(run_id, f"raygan.provenance.{config.name}", json.dumps(scores.provenance.as_dict()))
    record = {"target": target.name, "scores": scores.values, "failures": scores.failures, "provenance": scores.provenance.as_dict()}
    tracking.log_json(tracker, run_id, record, f"evaluations/{config.name}_{target.images_seen:012d}.json")
    if target.run_id is None:
        tracker.client.set_terminated(run_id, "FAILED" if scores.failures else "FINISHED")
    return tracker, run_id


def _table(target: Target, judge: Judge, real: Real, scores: Scores, page: str) -> str:
    extractor, came = judge.extractor, scores.provenance
    accuracy = f", test accuracy {extractor.facts['test_accuracy']:.4f}" if "test_accuracy" in extractor.facts else ""
    directions = scores_of(judge.metrics, extractor.name)
    lines = [
        f"\n{target.name}" + (f" at {target.images_seen / 1000:.1f} kimg" if target.images_seen else ""),
        f"  {came.fake_count:,} fakes against {came.real_count:,} images of {real.dataset.name} ({real.split})",
        f"  extractor {extractor.name} {extractor.weights_hash[:12]}{accuracy}",
    ]
    for key, better in directions.items():
        if key in scores.values:
            error = f" +/- {scores.values[f'{key}_error']:.4g}" if f"{key}_error" in scores.values else ""
            hint = f"{better} is better" if better else ""
            lines.append(f"  {key:26} {scores.values[key]:<12.5g}{error:16} {hint}".rstrip())
    lines += [f"  {name} could not be measured: {reason}" for name, reason in scores.failures.items()]
    return "\n".join([*lines, f"  run {page}"])
