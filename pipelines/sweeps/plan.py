"""What a sweep will do, known before anything starts: its config, its space, its trials, and those that cannot work."""

from pathlib import Path
from typing import Any, NamedTuple

from ray.tune.search.sample import Categorical

from gan_core.building import build_networks, load_dataset
from gan_core.datatypes import ImageDataset
from gan_core.fitting import require_fitting
from gan_core.overrides import Tree, merge, validate
from gan_core.wording import brief
from pipelines.config import load_named
from pipelines.results import SCREEN
from pipelines.sweeps import config as configs
from pipelines.sweeps import space as spaces
from pipelines.sweeps.config import Aim, SweepJobConfig
from pipelines.sweeps.ledger import Identity
from pipelines.sweeps.space import Point, Space
from pipelines.sweeps.trial import Told, job_of

SAMPLED = 24  # trials of a search over ranges, unless sweep.trials says otherwise
RESOLVED = ("data", "evaluation", "ray", "mlflow", "schedule")
OF_THE_SWEEP = ("sweep", "trials")  # sections that no trial reads
KEEP_FOR_PBT = 4  # checkpoints: a donor's must be there until it was copied


class SweepPlan(NamedTuple):
    """`tree` and the dotted keys `fixed` make the config of every trial before its point is set; `words` names the space's files.

    `points` is empty where results guide the search (tpe), and `planned` is how many trials there will be; `refused` says which points are
    no valid config, and why.
    """

    base: str
    words: str
    config: SweepJobConfig
    tree: Tree
    fixed: dict[str, Any]
    space: Space
    points: list[Point]
    refused: dict[int, str]
    planned: int
    aim: Aim
    dataset: ImageDataset

    def named(self, name: str) -> "SweepPlan":
        """The same sweep under this name."""
        return self._replace(config=self.config.model_copy(update={"sweep": self.config.sweep.model_copy(update={"name": name})}))

    def identity(self, number: int) -> Identity:
        """Trial `number` of the screening."""
        return Identity(number, number, SCREEN, self.config.seed, self.points[number])

    @property
    def budget(self) -> str:
        """What a trial that is not stopped spends, in words."""
        config = self.config
        kimg, sweep = f"{config.total_kimg:g} kimg", config.sweep
        if sweep.equal == "device_seconds":
            return f"{sweep.device_seconds:g} device seconds"
        if sweep.equal == "g_steps":
            return f"{config.total_kimg * 1000 / config.batch_size:,.0f} generator steps, {kimg} at 1:1"
        return f"{kimg}, {config.total_kimg * 1000 / config.batch_size:,.0f} discriminator steps"

    def told(self) -> Told:
        """What trials need of it; the driver fills in the rest."""
        sweep = self.config.sweep
        return Told(
            name=sweep.name or "",
            tree=self.tree,
            fixed=self.fixed,
            sweep=sweep.model_dump(),
            words="",
            tracking_uri="",
            experiment_id="",
            credentials={},
            facts={},
            objective=self.aim.objective,
            higher=self.aim.higher,
            distance=self.aim.distance,
            total_kimg=self.config.total_kimg,
            choices={key: spaces.told(domain) for key, domain in self.space.items() if isinstance(domain, Categorical)},
            perturbed=list(spaces.perturbable(self.space)) if sweep.scheduler == "pbt" else [],
            on_gpu=False,
        )

    def stored(self) -> Tree:
        """What `restore` needs, as plain values."""
        return {
            "base": self.base,
            "space": self.words,
            "searched": {key: spaces.told(domain) for key, domain in self.space.items()},
            "trial": self.tree,
            "fixed": self.fixed,
            "sweep": self.config.sweep.model_dump(),
            "trials": self.config.trials.model_dump(),
            "points": self.points,
            "planned": self.planned,
            "aim": self.aim._asdict(),
            "budget": {"equal": self.config.sweep.equal, "words": self.budget},
        }


def make(config_name: str, words: str, overrides: dict[str, Any]) -> SweepPlan:
    """Read config and space, and find the trials.

    Raises:
        ValueError: config, space, restrictions and settings do not go together.
    """
    file, searched = load_named(config_name), spaces.keys(words)
    restrictions = {key: value for key, value in overrides.items() if key in searched}
    fixed = {key: value for key, value in overrides.items() if key not in searched}
    return _plan(Path(config_name).stem, words, file, fixed, restrictions)


def _plan(base: str, words: str, file: Tree, fixed: dict[str, Any], restrictions: dict[str, Any]) -> SweepPlan:
    given = merge(file, fixed)
    first = validate(given, SweepJobConfig)
    dataset = load_dataset(first.gan())
    changes: dict[str, Any] = {"ray.num_workers": first.sweep.workers_per_trial}
    if first.sweep.scheduler == "pbt":
        changes |= {
            "schedule.checkpoint_kimg": first.perturb_kimg,
            "ray.checkpoints_to_keep": max(KEEP_FOR_PBT, first.ray.checkpoints_to_keep),
        }
    if not given.get("evaluation"):
        changes |= configs.evaluation_for(dataset)
    config = validate(merge(given, changes), SweepJobConfig)
    space = spaces.restrict(spaces.compose(words, resolution=dataset.resolution, batch_size=config.batch_size), restrictions)
    spaces.require_known(space, config)
    _require_searched(config, space)
    points, count = _points(config, space)
    aim = configs.aim(config.gan(), dataset, config.sweep.objective)
    tree, kept = _of_trials(file, {**fixed, **changes}, config)
    plan = SweepPlan(base, words, config, tree, kept, space, points, {}, count, aim, dataset)
    refused = {number: reason for number in range(len(points)) if (reason := refusal(plan, points[number]))}
    if points and len(refused) == len(points):
        raise ValueError(f"space {words}: none of its {len(points)} points fits this config; the first: {refused[0]}")
    return plan._replace(refused=refused)


def _of_trials(file: Tree, fixed: dict[str, Any], config: SweepJobConfig) -> tuple[Tree, dict[str, Any]]:
    """The tree that points are merged into, and the keys that hold in every trial, whatever its variant.

    Sections that no variant owns are taken as resolved: paths are from the root, because trials have another working directory.
    """
    resolved = config.model_dump(include=set(RESOLVED))
    tree = {key: value for key, value in file.items() if key not in (*RESOLVED, *OF_THE_SWEEP)} | resolved
    return tree, {key: value for key, value in fixed.items() if key.partition(".")[0] not in (*RESOLVED, *OF_THE_SWEEP)}


def _points(config: SweepJobConfig, space: Space) -> tuple[list[Point], int]:
    """The points that are known before there are results, and how many trials there will be."""
    sweep = config.sweep
    search = sweep.search or ("grid" if spaces.is_grid(space) and sweep.trials is None else "random")
    if search == "grid":
        points = spaces.grid(space)
        if sweep.trials is not None and sweep.trials != len(points):
            raise ValueError(
                f"sweep.trials: a grid has all its {len(points)} points, given {sweep.trials}; set sweep.search=random, or restrict keys"
            )
        return points, len(points)
    if search == "tpe":
        return [], sweep.trials or SAMPLED
    points = spaces.sample(space, sweep.trials or SAMPLED, sweep.seed)
    return points, len(points)


def _require_searched(config: SweepJobConfig, space: Space) -> None:
    if config.sweep.rank_within is not None and config.sweep.rank_within not in space:
        raise ValueError(f"sweep.rank_within: {brief(config.sweep.rank_within)[1:-1]} is not searched; the space has {', '.join(space)}")
    if config.sweep.scheduler == "pbt":
        spaces.perturbable(space)


def refusal(plan: SweepPlan, point: Point) -> str:
    """Why a point is no valid config for these data, or an empty text."""
    try:
        config = job_of(plan.told(), Identity(0, 0, SCREEN, plan.config.seed, point)).gan()
        config.require_divisible(plan.config.sweep.workers_per_trial)
        generator, discriminator = build_networks(config, plan.dataset)
        require_fitting(config, plan.dataset, generator, discriminator, ranks=plan.config.sweep.workers_per_trial)
    except ValueError as error:
        return str(error)
    return ""


def restore(stored: Tree, overrides: dict[str, Any]) -> SweepPlan:
    """The plan of a sweep that was started before, with changes of what may change: machines, tracking, and what comes after screening.

    Raises:
        ValueError: an override would change what its trials compute.
    """
    free = ("ray.", "mlflow.", "trials.", "sweep.max_concurrent", "sweep.confirm", "sweep.seeds", "sweep.register_as")
    bound = [key for key in overrides if not key.startswith(free)]
    if bound:
        raise ValueError(f"{bound[0]}: a sweep goes on with the settings it began with; what may change: {', '.join(free)}")
    file = {**stored["trial"], "sweep": stored["sweep"], "trials": stored.get("trials", {})}  # of older sweeps there are none
    choices = {key: values for key, values in stored["searched"].items() if isinstance(values, list)}
    plan = _plan(stored["base"], stored["space"], file, {**stored["fixed"], **overrides}, choices)
    if plan.points != stored["points"]:
        raise ValueError(f"space {plan.words}: it has other points than when the sweep began; restore tune_spaces, or start a new sweep")
    return plan
