"""JobConfig: a GanConfig with two more sections, for the machines it runs on and the place it is tracked in."""

import os
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from gan_core.config import FREE_ON_RESUME, DataConfig, GanConfig
from gan_core.data._tables import possible, without_secrets
from gan_core.overrides import Tree, differences_that_matter, load
from gan_core.registry import suggestion
from gan_core.schema import Section
from gan_core.sections import ExtractorConfig
from gan_core.wording import brief, holds_secret
from pipelines.packaged import CONFIGS, packaged


def absolute(path: str) -> str:
    """`path` from the root: workers do not share the command's working directory. Object-store addresses stay as they are.

    Raises:
        ValueError: an address that holds a password.
    """
    return without_secrets(path) if "://" in path else possible(os.path.abspath(os.path.expanduser(path)))


def public_uri(uri: str, key: str = "mlflow.tracking_uri") -> str:
    """The address of a tracking store, which is logged: it may not hold a password or a token.

    Raises:
        ValueError: it does, or is no address. The message does not repeat it.
    """
    try:
        password = urlsplit(uri).password
    except ValueError as error:
        raise ValueError(f"{key}: is no address ({error}); give a server's URL, or sqlite:///mlflow.db") from None
    if password or holds_secret(uri):
        raise ValueError(
            f"{key}: holds a password or a token, and addresses are logged; give it in MLFLOW_TRACKING_USERNAME and "
            f"MLFLOW_TRACKING_PASSWORD, or in MLFLOW_TRACKING_TOKEN; a database's own in its own variables, such as PGPASSWORD"
        )
    return uri


class RayConfig(Section):
    """Ray Train: workers, their resources, and the storage that all nodes reach.

    `use_gpu: null` takes GPUs where the cluster has one for each worker. The last `checkpoints_to_keep` checkpoints are kept, and the
    best one beside them. After `max_failures` lost workers the run fails; nodes that are taken away with notice are not counted. A storage
    that is full or gone is waited for, at most `storage_timeout_seconds`. After a loss that is NaN the run goes back to the last
    checkpoint, `max_rollbacks` times to the same one.

    `min_workers` lets a run go on with fewer than `num_workers` while the cluster has no more, and take more again: each change is a
    restart from the last checkpoint. `placement` is Ray's: workers near each other or apart, as far as possible or strictly.
    A run that lost its machines waits `machines_timeout_seconds` for others. Ranks that wait for each other in vain are ended after
    `collective_timeout_seconds` by PyTorch; those that stand still anywhere, after `stall_timeout_seconds`.

    `asynchronous_evaluation` scores each checkpoint in a Ray task of its own, which has `evaluation_cpus` and `evaluation_gpus` and is
    given up after `evaluation_timeout_seconds`, while the workers train on.
    """

    num_workers: Annotated[int, Field(gt=0)] = 1
    min_workers: Annotated[int, Field(gt=0)] | None = None
    placement: Literal["pack", "spread", "strict_pack", "strict_spread"] = "pack"
    use_gpu: bool | None = None
    cpus_per_worker: Annotated[float, Field(gt=0.0)] = 1.0
    storage_path: Annotated[str, AfterValidator(absolute)] = Field(default="runs", validate_default=True)
    checkpoints_to_keep: Annotated[int, Field(gt=0)] = 3
    max_failures: Annotated[int, Field(ge=0)] = 3
    max_rollbacks: Annotated[int, Field(ge=0)] = 2
    storage_timeout_seconds: Annotated[float, Field(ge=0.0)] = 600.0
    collective_timeout_seconds: Annotated[float, Field(gt=0.0)] = 300.0
    stall_timeout_seconds: Annotated[float, Field(ge=5.0)] = 600.0
    machines_timeout_seconds: Annotated[float, Field(gt=0.0)] = 3600.0
    asynchronous_evaluation: bool = False
    evaluation_cpus: Annotated[float, Field(ge=0.0)] = 1.0
    evaluation_gpus: Annotated[float, Field(ge=0.0)] = 0.0
    evaluation_timeout_seconds: Annotated[float, Field(gt=0.0)] = 3600.0

    @model_validator(mode="after")
    def _all_have_an_effect(self) -> "RayConfig":
        keys = ("evaluation_cpus", "evaluation_gpus", "evaluation_timeout_seconds")
        unused = [key for key in keys if getattr(self, key) != type(self).model_fields[key].default]
        if unused and not self.asynchronous_evaluation:
            raise ValueError(f"ray.{unused[0]} has no effect without ray.asynchronous_evaluation; set that to true")
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(
                f"ray.min_workers: given {self.min_workers}, which is more than ray.num_workers, {self.num_workers}; lower it, or raise "
                f"ray.num_workers"
            )
        if self.min_workers is not None and self.placement.startswith("strict"):  # Ray counts what is free, wherever it is, and then waits
            raise ValueError(
                f"ray.min_workers: does not go with ray.placement={self.placement}, because Ray would ask for more workers than can be "
                f"placed so; choose {self.placement.removeprefix('strict_')}, or leave ray.min_workers out"
            )
        return self

    @property
    def fewest_workers(self) -> int:
        """The least number of workers that the run goes on with."""
        return self.num_workers if self.min_workers is None else self.min_workers


# Who scores must not change within a run: the workers do not know which checkpoint the other ones found best.
_FREE_OF_RAY = tuple(f"ray.{key}" for key in RayConfig.model_fields if key != "asynchronous_evaluation")
JOB_FREE_ON_RESUME = (*FREE_ON_RESUME, *_FREE_OF_RAY, "mlflow.")


class MlflowConfig(Section):
    """MLflow: `tracking_uri: null` is $MLFLOW_TRACKING_URI, else mlflow.db in the working directory.

    With `registered_model` the generator of a finished run becomes the newest version of that model, models:/NAME/latest.
    """

    tracking_uri: str | None = None
    experiment: str = "raygan"
    run_name: str | None = None
    registered_model: Annotated[str, Field(pattern=r"^\w[\w.-]*$")] | None = None
    system_metrics: bool = True
    delivery_timeout_seconds: Annotated[float, Field(gt=0.0)] = 60.0

    @field_validator("tracking_uri")
    @classmethod
    def _no_secrets(cls, uri: str | None) -> str | None:
        return public_uri(uri) if uri else None


class JobConfig(GanConfig):
    """Everything that `raygan train` reads."""

    ray: RayConfig = RayConfig()
    mlflow: MlflowConfig = MlflowConfig()

    @model_validator(mode="after")
    def _scores_checkpoints(self) -> "JobConfig":
        when = self.schedule
        if self.ray.asynchronous_evaluation and when.evaluate_kimg != when.checkpoint_kimg:
            raise ValueError(
                f"schedule.evaluate_kimg: with ray.asynchronous_evaluation checkpoints are scored, every {when.checkpoint_kimg:g} kimg, "
                f"given {when.evaluate_kimg:g}; set both to one value"
            )
        return self

    def gan(self) -> GanConfig:
        """The part that decides what is computed."""
        return GanConfig.model_validate(self.model_dump(include=set(GanConfig.model_fields)))


def load_named(config: str) -> Tree:
    """The tree of a YAML file, or of a config in pipelines/configs by its short name.

    Raises:
        ValueError: there is neither.
    """
    bundled = CONFIGS / f"{Path(possible(config)).name}.yaml"
    if not Path(config).is_file() and bundled.is_file():
        return load(bundled)
    if not Path(config).is_file():
        near = suggestion(config, packaged())
        raise ValueError(f"no config file at {brief(config)}{near}; give a path to a YAML file, or one of: {', '.join(packaged())}")
    return load(config)


def require_resumable(before: dict[str, str], after: dict[str, str], run: str) -> None:
    """Check flattened configs of a past run and of its continuation.

    Raises:
        ValueError: a key differs that changes what is computed.
    """
    changed = differences_that_matter(before, after, JOB_FREE_ON_RESUME)
    if changed:
        lines = "\n  ".join(changed)
        raise ValueError(f"run {run} cannot be resumed with another config; differing keys:\n  {lines}\nUse --from-run for a new run")


class EvaluateConfig(Section):
    """Everything that `raygan evaluate` reads.

    `data` is the real data, by default that which the target was trained on; `split` says which of its images: `train` and `held_out` as
    training divided them, or `all`. The default is `train` for the target's own data and `all` for other data. `real_count: null` is all
    of these; `fake_count: null` is 10,000, or all images of a target that has fewer. `extractor: null` is pixels for points, lenet where
    images have labels, else random_conv; `metrics: null` is every metric that can be measured.
    Scores go to MLflow as `<name>/<score>`.
    """

    data: DataConfig | None = None
    split: Literal["train", "held_out", "all"] | None = None
    extractor: ExtractorConfig | None = None
    metrics: tuple[str, ...] | None = None
    fake_count: Annotated[int, Field(gt=1)] | None = None
    real_count: Annotated[int, Field(gt=1)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] = "evaluate"
    mlflow: MlflowConfig = MlflowConfig()

    @model_validator(mode="after")
    def _all_have_an_effect(self) -> "EvaluateConfig":
        for key in ("registered_model", "run_name"):
            if getattr(self.mlflow, key) is not None:
                raise ValueError(f"mlflow.{key} has no effect in an evaluation; leave it out")
        return self
