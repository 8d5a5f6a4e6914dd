"""SweepJobConfig: a JobConfig with the section `sweep`, which says how a space is searched and how what it finds is tested."""

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from gan_core import registry
from gan_core.config import GanConfig
from gan_core.datatypes import ImageDataset
from gan_core.diagnostics import Alarms
from gan_core.evaluation import metrics_of
from gan_core.extractors import lenet
from gan_core.measures import scores_of
from gan_core.schema import Section
from gan_core.sections import Kimg, Whole
from gan_core.wording import brief
from pipelines.config import JobConfig

ETA = 3.0
SCHEDULED = ("asha", "median", "pbt")
COLLAPSE_PROOF = ("score", "kernel_distance", "frechet_distance", "precision_recall", "density_coverage")


class SweepConfig(Section):
    """How `raygan sweep` searches; every trial's budget is `total_kimg` in the unit of `equal`.

    `search`: grid is every point of the space once; random draws `trials` of them, tpe (Optuna) lets the results so far guide it; null is
    grid where all keys have choices, else random. `scheduler`: asha stops all but the best 1/`reduction_factor` at `grace_kimg` and at
    each multiple by that factor (1810.05934); median stops what is below the median of the others; pbt lets the worst quarter go on
    from the weights of the best with perturbed learning rates, penalty weights and ratio, every `perturb_kimg` (1711.09846); fifo stops
    nothing. `rank_within` names a searched key, such as loss.name: until `rank_within_kimg` trials compete within its values only.

    `equal`: budgets equal in images, in generator steps (as many as `total_kimg` holds at 1:1), or in device seconds
    (`device_seconds` each); `grace_kimg` and the other lengths are shares of `total_kimg` then.

    `objective` is a score; null is `evaluation.objective`, else `score` (or `good_points` for points). Alarms in `stop_on_alarms` end a
    trial. The `confirm` best configurations are repeated with `seeds` fresh seeds each; `register_as` makes the winner's generator a new
    version of that registered model, with the alias champion.

    A trial has `workers_per_trial` workers, in one process if that is 1, else through Ray Train; `gpus_per_trial` may be a fraction for
    one worker, and null is a GPU for each worker where the cluster has as many. `max_concurrent` is at most what the cluster holds. With
    `trials.packed` both are of packs.
    """

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] | None = None
    search: Literal["grid", "random", "tpe"] | None = None
    trials: Whole | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    scheduler: Literal["asha", "median", "pbt", "fifo"] = "asha"
    objective: str | None = None
    equal: Literal["images", "g_steps", "device_seconds"] = "images"
    device_seconds: Annotated[float, Field(gt=0.0)] | None = None
    grace_kimg: Kimg | None = None
    reduction_factor: Annotated[float, Field(gt=1.0)] = ETA
    perturb_kimg: Kimg | None = None
    rank_within: str | None = None
    rank_within_kimg: Kimg | None = None
    stop_on_alarms: tuple[str, ...] = ("collapse", "divergence")
    confirm: Annotated[int, Field(ge=0)] | None = None
    seeds: Whole = 3
    register_as: Annotated[str, Field(pattern=r"^[\w.-]+$")] | None = None
    workers_per_trial: Whole = 1
    gpus_per_trial: Annotated[float, Field(ge=0.0)] | None = None
    max_concurrent: Whole | None = None

    @field_validator("stop_on_alarms")
    @classmethod
    def _known(cls, alarms: tuple[str, ...]) -> tuple[str, ...]:
        for name in alarms:
            registry.require_choice("alarm", name, Alarms.NAMES)
        return alarms

    @model_validator(mode="after")
    def _all_have_an_effect(self) -> "SweepConfig":
        for key, schedulers in (
            ("grace_kimg", ("asha", "median")),
            ("perturb_kimg", ("pbt",)),
            ("rank_within", ("asha", "median")),
            ("reduction_factor", ("asha",)),
        ):
            if self.scheduler not in schedulers and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"sweep.{key} has no effect with sweep.scheduler={self.scheduler}; it is for {' and '.join(schedulers)}")
        if (self.device_seconds is None) == (self.equal == "device_seconds"):
            raise ValueError("sweep.device_seconds: belongs to sweep.equal=device_seconds; give both or neither")
        if self.rank_within_kimg is not None and self.rank_within is None:
            raise ValueError("sweep.rank_within_kimg has no effect without sweep.rank_within; set that to a searched key")
        if self.scheduler == "pbt" and self.confirm:
            raise ValueError("sweep.confirm: what pbt finds is a schedule of settings and not one that can be repeated; set it to 0")
        if self.scheduler == "pbt" and self.equal != "images":
            raise ValueError(
                f"sweep.equal: pbt hands weights between trials that have seen as many images, given {self.equal}; set it to images"
            )
        if self.scheduler == "pbt" and self.max_concurrent is not None and self.workers_per_trial == 1:
            raise ValueError("sweep.max_concurrent: pbt pauses trials, which still count as running; raise ray.cpus_per_worker instead")
        if self.scheduler == "pbt" and self.search == "tpe":
            raise ValueError("sweep.search: pbt needs its whole population at the start, which tpe does not give; use random or grid")
        if self.workers_per_trial > 1 and self.gpus_per_trial not in (None, 0.0, float(self.workers_per_trial)):
            raise ValueError(
                f"sweep.gpus_per_trial: {self.workers_per_trial} workers have a GPU each or none, given {self.gpus_per_trial:g}; set it to "
                f"{self.workers_per_trial} or 0"
            )
        return self

    @property
    def repeated(self) -> int:
        """How many configurations are repeated with fresh seeds."""
        return self.confirm if self.confirm is not None else 0 if self.scheduler == "pbt" else 3


class TrialsConfig(Section):
    """How the trials of a sweep are run: up to `packed` trials of one architecture train as one batched program, in one process on one
    device, each with its own run, checkpoints and end; 1 is a process for each.
    """

    packed: Whole = 1


class SweepJobConfig(JobConfig):
    """Everything that `raygan sweep` reads."""

    sweep: SweepConfig = SweepConfig()
    trials: TrialsConfig = TrialsConfig()

    @model_validator(mode="after")
    def _fits_a_sweep(self) -> "SweepJobConfig":
        when, sweep = self.schedule, self.sweep
        if self.ray.asynchronous_evaluation:
            raise ValueError("ray.asynchronous_evaluation: a sweep decides by each trial's scores while it runs; set it to false")
        if self.mlflow.registered_model is not None:
            raise ValueError("mlflow.registered_model has no effect in a sweep, which registers its winner as sweep.register_as; set that")
        if sweep.equal == "g_steps" and (self.step_ratio_schedule.steers or self.step_ratio_schedule.warmup_ratio is not None):
            raise ValueError(
                "sweep.equal: generator steps cannot be counted ahead where step_ratio_schedule changes the ratio; take images"
            )
        if sweep.gpus_per_trial and self.ray.use_gpu is False:
            raise ValueError(f"sweep.gpus_per_trial: {sweep.gpus_per_trial:g}, but ray.use_gpu is false; set one of them")
        if sweep.gpus_per_trial == 0.0 and self.ray.use_gpu:
            raise ValueError("ray.use_gpu: true, but sweep.gpus_per_trial is 0; set one of them")
        if when.evaluate_kimg > self.total_kimg:
            raise ValueError(f"schedule.evaluate_kimg: {when.evaluate_kimg:g} is above total_kimg {self.total_kimg:g}; lower it")
        for key in ("grace_kimg", "perturb_kimg", "rank_within_kimg"):
            value = getattr(sweep, key)
            if value is not None and not when.evaluate_kimg <= value <= self.total_kimg:
                raise ValueError(
                    f"sweep.{key}: trials are compared when they are scored, so it must be from schedule.evaluate_kimg "
                    f"{when.evaluate_kimg:g} to total_kimg {self.total_kimg:g}, given {value:g}"
                )
        return self

    @model_validator(mode="after")
    def _can_be_packed(self) -> "SweepJobConfig":
        sweep = self.sweep
        if self.trials.packed == 1:
            return self
        for key, refused, why in (
            ("sweep.scheduler", "pbt", "it pauses trials and hands their weights on, and those of a pack go on together; take asha"),
            ("sweep.search", "tpe", "it chooses a point by the results before it, and those of a pack start together; take random or grid"),
            ("sweep.equal", "device_seconds", "those of a pack share the seconds of one device; take images or g_steps"),
        ):
            if getattr(sweep, key.removeprefix("sweep.")) == refused:
                raise ValueError(f"trials.packed: does not go with {key}={refused}: {why}, or set trials.packed=1")
        if sweep.workers_per_trial > 1:
            raise ValueError(
                f"trials.packed: a pack is one process, and sweep.workers_per_trial={sweep.workers_per_trial} asks for more; set one of "
                f"them to 1"
            )
        return self

    @property
    def grace_kimg(self) -> float:
        """What a trial gets at least: a ninth of the budget unless `sweep.grace_kimg` says otherwise, or the first score."""
        asked = self.sweep.grace_kimg
        return asked if asked is not None else max(self.schedule.evaluate_kimg, self.total_kimg / ETA**2)

    @property
    def perturb_kimg(self) -> float:
        """How often pbt looks: a fifth of the budget unless `sweep.perturb_kimg` says otherwise."""
        asked = self.sweep.perturb_kimg
        return asked if asked is not None else max(self.schedule.evaluate_kimg, self.total_kimg / 5)

    def job(self) -> JobConfig:
        """The config without the sections `sweep` and `trials`: that of each trial before its point is set."""
        return JobConfig.model_validate(self.model_dump(exclude={"sweep", "trials"}))


def evaluation_for(dataset: ImageDataset) -> dict[str, Any]:
    """Scores that a collapsed generator cannot win, for configs that do not say how to evaluate; as dotted keys."""
    if dataset.mixture is not None:
        return {"evaluation.metrics": ["mode_coverage", "kernel_distance"], "evaluation.objective": "good_points"}
    small = lenet.SMALLEST_SIDE <= dataset.resolution <= lenet.LARGEST_SIDE
    extractor = "lenet" if dataset.labels is not None and small else "random_conv"
    return {"evaluation.extractor.name": extractor, "evaluation.metrics": list(COLLAPSE_PROOF), "evaluation.objective": "score"}


class Aim(NamedTuple):
    """The score that trials are compared by, whether more of it is better, and a distance to draw beside it, empty if there is none."""

    objective: str
    higher: bool
    distance: str


def aim(config: GanConfig, dataset: ImageDataset, asked: str | None) -> Aim:
    """What the trials of a sweep are compared by: `asked`, else the config's own objective, else the score.

    Raises:
        ValueError: no trial reports such a score, or it has no better side.
    """
    directions = scores_of(metrics_of(config, dataset), config.evaluation.extractor.name)
    ranking = [name for name, better in directions.items() if better]
    objective = asked or config.evaluation.objective or ("score" if "score" in ranking else ranking[0])
    if objective not in ranking:
        near = registry.suggestion(objective, ranking)
        raise ValueError(
            f"sweep.objective: no trial reports {brief(objective)}{near}; these have a better side: {', '.join(ranking)}; "
            "evaluation.metrics adds more"
        )
    distances = [name for name in ranking if name.startswith(("kid", "fd")) and directions[name] == "lower"]
    return Aim(objective, directions[objective] == "higher", distances[0] if distances else "")
