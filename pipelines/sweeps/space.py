"""Search spaces: read from tune_spaces, joined, restricted by the command line, and turned into points."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ray.tune.search.sample import Categorical, Domain, Float, Integer

from gan_core import registry
from gan_core.config import GanConfig
from gan_core.losses import LOSSES
from gan_core.overrides import Tree, flatten
from gan_core.ratio import StepRatio
from gan_core.variants import VARIANTS
from gan_core.wording import brief

Space = dict[str, Domain]
Point = dict[str, Any]

LOSS, VARIANT = "loss.name", "variant"
PERTURBABLE = ("step_ratio", "optimizer.", "regularizers.")  # what pbt may change in a run; a loss or a network it may not


def compose(words: str, *, resolution: int, batch_size: int) -> Space:
    """The space that `words` name, such as `loss_x_ratio+optimizer`; keys that a file calls SCALED are fitted to these data.

    Raises:
        ValueError: no such space, or two of them search one key.
    """
    space: Space = {}
    for name in words.split("+"):
        module = registry.find("tune_spaces", name)
        scaled = getattr(module, "SCALED", ())
        for key, domain in module.SPACE.items():
            if key in space:
                raise ValueError(f"space {words}: two of these search {key}; take one of them")
            space[key] = _scaled(domain, resolution**2 / batch_size) if key in scaled else domain
    return space


def _scaled(domain: Categorical, factor: float) -> Categorical:
    return Categorical([float(f"{value * factor:.4g}") for value in domain.categories])


def keys(words: str) -> set[str]:
    """The keys that a space searches.

    Raises:
        ValueError: no such space.
    """
    return {key for name in words.split("+") for key in registry.find("tune_spaces", name).SPACE}


def restrict(space: Space, allowed: Mapping[str, Any]) -> Space:
    """The space with only the values that `allowed` names: a list, or one value. Among those of loss.name may be variants.

    Raises:
        ValueError: an empty list, or values that the space does not hold.
    """
    restricted = dict(space)
    for key, given in allowed.items():
        values = given if isinstance(given, list) else [given]
        if not values:
            raise ValueError(f"{key}=[]: nothing is left to search; give values among: {_listed(space[key])}")
        restricted[key] = _among(key, space[key], values)
    return restricted


def _among(key: str, domain: Domain, values: Sequence[Any]) -> Domain:
    outside = [value for value in values if not _holds(key, domain, value)]
    if outside:
        names = [str(value) for value in getattr(domain, "categories", [])] + (list(VARIANTS) if key == LOSS else [])
        variants = f"; variants may be named too: {', '.join(sorted(VARIANTS.keys() - LOSSES.keys()))}" if key == LOSS else ""
        near = registry.suggestion(str(outside[0]), names)
        raise ValueError(f"{key}: {brief(outside[0])} is not in this space{near}; it holds {_listed(domain)}{variants}")
    if len(set(map(str, values))) < len(values):
        raise ValueError(f"{key}: a value is given twice in {list(values)}")
    return Categorical(list(values))


def _holds(key: str, domain: Domain, value: Any) -> bool:
    if isinstance(domain, Categorical):
        return value in domain.categories or (key == LOSS and value in VARIANTS)
    assert isinstance(domain, (Float, Integer))
    return isinstance(value, (int, float)) and domain.lower <= value <= domain.upper


def _listed(domain: Domain) -> str:
    if isinstance(domain, Categorical):
        return ", ".join(str(value) for value in domain.categories)
    assert isinstance(domain, (Float, Integer))
    return f"{domain.lower:g} to {domain.upper:g}"


def told(domain: Domain) -> Any:
    """A domain as plain values: its choices, or its ends and how it is sampled."""
    if isinstance(domain, Categorical):
        return list(domain.categories)
    assert isinstance(domain, (Float, Integer))
    return {"lower": domain.lower, "upper": domain.upper, "sampler": str(domain.get_sampler())}


def overrides_of(point: Point, base: Tree) -> dict[str, Any]:
    """The config keys that a point of the search sets: a variant under loss.name is a variant, and a bare loss has none beside it."""
    overrides = dict(point)
    name = overrides.get(LOSS)
    if name is not None and name not in LOSSES:
        del overrides[LOSS]
        overrides[VARIANT] = name
    elif name is not None and base.get(VARIANT) is not None:
        overrides[VARIANT] = None
    return overrides


def is_grid(space: Space) -> bool:
    """Whether every key has choices, so that there are finitely many points."""
    return all(isinstance(domain, Categorical) for domain in space.values())


def grid(space: Space) -> list[Point]:
    """Every point once, the first key slowest.

    Raises:
        ValueError: a key has a range.
    """
    ranges = [key for key, domain in space.items() if not isinstance(domain, Categorical)]
    if ranges:
        raise ValueError(f"sweep.search: grid needs choices, and {ranges[0]} is a range; give {ranges[0]}=[...], or sweep.search=random")
    values = [domain.categories for domain in space.values() if isinstance(domain, Categorical)]
    return [dict(zip(space, chosen, strict=True)) for chosen in itertools.product(*values)]


def sample(space: Space, count: int, seed: int) -> list[Point]:
    """`count` random points, no one twice; fewer where a grid has no more."""
    generator = np.random.RandomState(seed)
    if is_grid(space):
        points = grid(space)
        return [points[index] for index in generator.permutation(len(points))[:count]]
    return [{key: _plain(domain.sample(random_state=generator)) for key, domain in space.items()} for _ in range(count)]


def _plain(value: Any) -> Any:
    """A number that config files and MLflow write in few digits; NumPy's types as Python's."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return value.item() if isinstance(value, np.generic) else value


def perturbable(space: Space) -> dict[str, Any]:
    """What pbt may change of it, in the terms of Ray's scheduler: ordered choices, or a range.

    Raises:
        ValueError: there is nothing that it may change.
    """
    found = {key: domain for key, domain in space.items() if key.startswith(PERTURBABLE)}
    if not found:
        raise ValueError(
            f"sweep.scheduler: pbt changes learning rates, penalty weights and the ratio, and the space searches {', '.join(space)}; add "
            "+optimizer or +regularization"
        )
    return {key: _ordered(key, domain) if isinstance(domain, Categorical) else domain for key, domain in found.items()}


def _ordered(key: str, domain: Categorical) -> list[Any]:
    if key == "step_ratio":
        return sorted(domain.categories, key=share)
    return sorted(domain.categories) if all(isinstance(value, (int, float)) for value in domain.categories) else list(domain.categories)


def within(point: Point, space: Space) -> Point:
    """The point with numbers put back into their ranges: Ray's perturbation by 0.8 or 1.2 leaves them."""
    kept = dict(point)
    for key, domain in space.items():
        if isinstance(domain, (Float, Integer)) and key in kept:
            kept[key] = _plain(min(max(kept[key], domain.lower), domain.upper))
    return kept


def share(ratio: str) -> float:
    """A ratio d:g as the number d / g."""
    parsed = StepRatio.parse(ratio)
    return parsed.d / parsed.g


def number_of(key: str, value: Any) -> float | None:
    """A searched value as a number to plot: ratios as d / g; None for a name."""
    if key == "step_ratio":
        return share(value)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def coordinates(point: Point, choices: Mapping[str, Sequence[Any]]) -> dict[str, float]:
    """A point as numbers: a name by its place among the choices, counted from 0."""
    found = {}
    for key, value in point.items():
        number = number_of(key, value)
        if number is None and value in choices.get(key, ()):
            number = float(choices[key].index(value))
        if number is not None:
            found[key] = number
    return found


def require_known(space: Space, base: GanConfig) -> None:
    """Check that the config has every key of the space.

    Raises:
        ValueError: it does not, as where the keys are another network's.
    """
    known = flatten(base)
    missing = [key for key in space if key not in known and "network.name" not in space]
    if missing:
        near = registry.suggestion(missing[0], known)
        raise ValueError(f"space: the config has no key '{missing[0]}'{near}; its network is {base.network.name}")
