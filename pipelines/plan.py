"""What a command line asks for: the config from a file or a past run, checked before anything starts."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch

from gan_core import evaluation
from gan_core.building import build_networks, load_dataset
from gan_core.cautions import cautions
from gan_core.datatypes import ImageDataset
from gan_core.fitting import require_fitting
from gan_core.overrides import Tree, flatten, merge, parse, validate
from gan_core.sampling import held_out_split
from pipelines import environment, storage
from pipelines.config import JobConfig, load_named, require_resumable

if TYPE_CHECKING:
    from pipelines.tracking import Tracker

T = TypeVar("T")


class Plan(NamedTuple):
    """The config, a name for the run; and for a continuation the run to resume with its flattened config. `once` says that the name is to
    be the run's alone, `finished` that such a run is complete.
    """

    config: JobConfig
    name: str
    resume: str | None
    before: dict[str, str]
    once: bool = False
    finished: bool = False


def make_plan(options: argparse.Namespace) -> Plan:
    """Read the config and apply the overrides.

    Raises:
        ValueError: anything about the command line or the config is wrong.
    """
    words = list(options.words)
    named = words.pop(0) if words and "=" not in words[0] else None
    overrides = dict(parse(word) for word in words)
    if options.resume or options.from_run:
        return _from_past(options, named, overrides)
    if named is None:
        raise ValueError("give a config: a YAML file, or the name of a packaged one such as digits")
    config = validate(merge(load_named(named), overrides), JobConfig)
    if options.once:
        return _once(options.once, config)
    return Plan(config, config.mlflow.run_name or Path(named).stem, None, {})


def _from_past(options: argparse.Namespace, named: str | None, overrides: Tree) -> Plan:
    past = options.resume or options.from_run
    if named is not None and options.from_run:
        raise ValueError("--from-run takes its config from the past run; leave out the config file")
    given = merge(load_named(named) if named else {}, overrides)
    stored = _stored_config(past, (given.get("mlflow") or {}).get("tracking_uri"))
    config = validate(given if named else merge(stored, overrides), JobConfig)
    if options.from_run:
        return Plan(config, config.mlflow.run_name or f"from-{past[:8]}", None, {})
    before = flatten(validate(stored, JobConfig))
    require_resumable(before, flatten(config), past)
    return Plan(config, past, past, before)


def _once(name: str, config: JobConfig) -> Plan:
    """The run called `name` in the config's experiment, to be started, gone on with, or left as it is."""
    from pipelines import past, tracking

    if config.mlflow.run_name not in (None, name):
        raise ValueError(f"mlflow.run_name: given '{config.mlflow.run_name}' beside --once {name}; leave one of them out")
    tracker = tracking.reach(config.mlflow.tracking_uri)
    run = _answer(tracker, lambda: past.named_run(tracker, config.mlflow.experiment, name))
    if run is None:
        return Plan(config, name, None, {}, once=True)
    if run.info.status == "FINISHED":
        return Plan(config, name, run.info.run_id, {}, once=True, finished=True)
    run_id = run.info.run_id
    before = flatten(validate(_answer(tracker, lambda: past.read_config(tracker, run_id)), JobConfig))
    require_resumable(before, flatten(config), run_id)
    return Plan(config, name, run_id, before, once=True)


def nothing_to_do(name: str, run_id: str) -> int:
    """What is said, and the exit status, where the run called `name` is complete."""
    print(f"run {run_id} is finished: there is nothing to do for --once {name}")
    return 0


def _stored_config(run: str, tracking_uri: str | None) -> Tree:
    from pipelines import past, tracking  # MLflow takes a second to import

    tracker = tracking.reach(tracking_uri)
    return _answer(tracker, lambda: past.read_config(tracker, run))


def _answer(tracker: "Tracker", question: Callable[[], T]) -> T:
    """What the tracking store says, which was reached a moment ago.

    Raises:
        ValueError: it answers with an error, or no more.
    """
    from mlflow.exceptions import MlflowException

    try:
        return question()
    except (MlflowException, OSError) as error:
        reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise ValueError(f"mlflow.tracking_uri: {tracker.uri} has no answer now ({reason}); see its log, or repeat the command") from None


class Ready(NamedTuple):
    """A config that was found to fit: its data set, and sentences about settings that were probably not meant."""

    dataset: ImageDataset
    cautions: list[str]


def check(config: JobConfig, *, local: bool, command: str = "train") -> Ready:
    """Everything that can be known to be wrong before anything starts. `command` is who tells the user that an extractor is prepared.

    Raises:
        ValueError: workers, data, networks or storage do not fit.
    """
    if local and config.ray.num_workers != 1:
        raise ValueError(f"ray.num_workers: --local is one worker, given {config.ray.num_workers}; set ray.num_workers=1")
    if local and "://" in config.ray.storage_path:
        raise ValueError(f"ray.storage_path: --local needs a folder on this machine, given {config.ray.storage_path}")
    if local and config.ray.asynchronous_evaluation:
        raise ValueError("ray.asynchronous_evaluation: it needs Ray; leave out --local, or set it to false")
    if local and config.ray.use_gpu and not torch.cuda.is_available():
        raise ValueError("ray.use_gpu: this machine has no GPU that PyTorch can use; set it to false")
    if local and config.ray.min_workers is not None:
        raise ValueError("ray.min_workers: --local is one worker for good; leave it out")
    _require_divisible_by_all_sizes(config)
    if environment.ray_job_id():
        _require_lasting_places(config)
    storage.require_writable(config.ray.storage_path)
    dataset = load_dataset(config.gan())
    generator, discriminator = build_networks(config.gan(), dataset)
    for ranks in range(config.ray.fewest_workers, config.ray.num_workers + 1):
        require_fitting(config.gan(), dataset, generator, discriminator, ranks=ranks)
    extractor = config.evaluation.extractor.name
    if extractor != "pixels":
        print(f"raygan {command}: preparing the extractor {extractor}, once for these data", file=sys.stderr)
    train, held_out = held_out_split(len(dataset), config.diagnostics.held_out)
    evaluation.build_judge(config.gan(), dataset, train, held_out, torch.device("cpu"))
    return Ready(dataset, cautions(config.gan(), discriminator))


def _require_divisible_by_all_sizes(config: JobConfig) -> None:
    """Whatever number of workers an elastic run may come to have, its batch must be divisible by it.

    Raises:
        ValueError: it is not.
    """
    sizes = range(config.ray.fewest_workers, config.ray.num_workers + 1)
    unfit = [size for size in sizes if not _divides(config, size)]
    if len(unfit) > 0 and len(sizes) > 1:
        raise ValueError(
            f"ray.min_workers: of {sizes[0]} to {sizes[-1]} workers, {', '.join(map(str, unfit))} cannot share the batch of "
            f"{config.batch_size} equally; choose a batch_size that all these numbers divide, or a narrower range"
        )
    config.require_divisible(config.ray.num_workers)


def _divides(config: JobConfig, ranks: int) -> bool:
    try:
        config.require_divisible(ranks)
    except ValueError:
        return False
    return True


def _require_lasting_places(config: JobConfig) -> None:
    """A Ray job runs in a temporary copy of its working directory: what is written there is lost.

    Raises:
        ValueError: the storage or the tracking store would be there.
    """
    if "://" not in config.ray.storage_path and Path(config.ray.storage_path).is_relative_to(Path.cwd()):
        raise ValueError(
            f"ray.storage_path: {config.ray.storage_path} is in the Ray job's temporary working directory; give a folder or an object "
            f"store that all nodes reach"
        )
    uri = config.mlflow.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        raise ValueError(
            f"mlflow.tracking_uri: {uri} is in the Ray job's temporary working directory; give a server's URL, here or in "
            f"MLFLOW_TRACKING_URI through the job's runtime environment"
        )
