"""Everything of a run that training changes: counters, scores so far, the ratio, alarms and statistics; with weights and moments it is what
a checkpoint holds, and what a run of the same config on the same data continues from bit for bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gan_core.building import Parts, build_ratio, build_thresholds
from gan_core.checkpoint import load_moments
from gan_core.config import FREE_ON_RESUME, GanConfig
from gan_core.diagnostics import Alarms
from gan_core.history import History
from gan_core.overrides import differences_that_matter, flatten, unflatten, validate
from gan_core.provenance import Provenance, require_same
from gan_core.ratio import RatioSchedule

SAVED = ("d_steps", "g_steps", "images_seen", "device_seconds", "reported_at", "window_seconds", "collected")
SCORED = ("first_scores", "last_scores", "best", "provenance")


@dataclass
class State:
    """What a trainer counts and remembers. There is no random state, only counters.

    `reported_at` is the clock at the last report, and `window_seconds` are those of training since; `collected` are the statistics since
    then, as of the last moment that was to be saved, and `last_good` is that moment. `best` holds the objective and its `images_seen`.
    """

    ratio: RatioSchedule
    alarms: Alarms
    history: History = field(default_factory=History)
    d_steps: int = 0
    g_steps: int = 0
    images_seen: int = 0
    device_seconds: float = 0.0
    reported_at: int | None = None
    window_seconds: float = 0.0
    collected: list[dict[str, Any]] = field(default_factory=list)
    last_good: int | None = None
    first_scores: dict[str, float] = field(default_factory=dict)
    last_scores: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] | None = None


def fresh(config: GanConfig) -> State:
    """The state before the first step."""
    return State(build_ratio(config), Alarms(build_thresholds(config)))


def progress(state: State, parts: Parts) -> dict[str, float]:
    """What it says at a report: which alarms ring, the ratio, steps, device seconds."""
    ratio = state.ratio.current(state.images_seen)
    metrics = {f"alarm/{name}": float(name in state.alarms.ringing) for name in state.alarms.NAMES}
    metrics["progress/ratio_d"], metrics["progress/ratio_g"] = float(ratio.d), float(ratio.g)
    if state.ratio.advantage is not None:
        metrics["d/advantage"] = state.ratio.advantage
    if parts.game.augmenter is not None:
        metrics.update(parts.game.augmenter.metrics())
    metrics["progress/d_steps"] = float(state.d_steps)
    metrics["progress/g_steps"] = float(state.g_steps)
    metrics["progress/device_seconds"] = state.device_seconds
    return metrics


def gathered(state: State, config: GanConfig, parts: Parts) -> dict[str, Any]:
    """The state, weights and moments, as tensors and plain values."""
    found = {
        "config": flatten(config),
        "content_hash": parts.dataset.content_hash,
        **{name: getattr(state, name) for name in SAVED + SCORED},
        "ratio": state.ratio.state_dict(),
        "alarms": state.alarms.state_dict(),
        "anchors": parts.game.anchors,
        "augmenter": None if parts.game.augmenter is None else parts.game.augmenter.state_dict(),
        "path_length": None if parts.game.path is None else parts.game.path.mean,
        "generator": parts.g.network.state_dict(),
        "discriminator": parts.d.network.state_dict(),
        "g_ema": parts.g_ema.network.state_dict(),
        "generator_optimizer": parts.g.optimizer.state_dict(),
        "discriminator_optimizer": parts.d.optimizer.state_dict(),
    }
    return {key: _cut(value) for key, value in found.items()}


def _cut(value: Any) -> Any:
    """`value` with a copy of each tensor that is a piece of a larger one, as a population's are: saving it would save the whole."""
    if isinstance(value, Tensor):
        return value.clone() if value.untyped_storage().nbytes() > value.nbytes else value
    if isinstance(value, dict):
        return type(value)((key, _cut(part)) for key, part in value.items())
    return [_cut(part) for part in value] if isinstance(value, list) else value


def restore(
    state: State,
    saved: Mapping[str, Any],
    config: GanConfig,
    parts: Parts,
    *,
    provenance: Provenance | None,
    perturbed: tuple[str, ...],
) -> None:
    """Change `state` and `parts` to what `gathered` has given.

    The config may differ in the keys `perturbed`, whose own values hold from here on. `provenance` is that of scores to come, None where
    there will be none.

    Raises:
        ValueError: it is no state of this run, and why. `state` and `parts` are of no use any more.
    """
    try:
        changed = _require_same_run(saved, config, parts, provenance, perturbed)
        _take_up(state, saved, keep_ratio="step_ratio" in changed)
        _take_up_parts(parts, saved, keep_probability="augment.probability" in perturbed)
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"the checkpoint holds no state of this run: {type(error).__name__}: {error}") from None


def _require_same_run(
    saved: Mapping[str, Any], config: GanConfig, parts: Parts, provenance: Provenance | None, perturbed: tuple[str, ...]
) -> set[str]:
    """Check config, data and how scores are made; returns the perturbed keys that do differ."""
    mine = flatten(config)
    theirs = flatten(validate(unflatten(saved["config"]), GanConfig))  # what a former version did not know has its default
    changed = differences_that_matter(theirs, mine, (*FREE_ON_RESUME, *perturbed))
    if changed:
        raise ValueError("the checkpoint was made with another config; differing keys:\n  " + "\n  ".join(changed))
    if saved["content_hash"] != parts.dataset.content_hash:
        raise ValueError(
            f"the checkpoint was made with other data: content hash {saved['content_hash'][:12]}, "
            f"now {parts.dataset.content_hash[:12]} from {parts.dataset.source}"
        )
    if provenance is not None and saved["provenance"] is not None:
        require_same(Provenance.from_dict(saved["provenance"]), provenance, "the checkpoint's scores")
    return {key for key in perturbed if theirs.get(key) != mine.get(key)}


def _take_up(state: State, saved: Mapping[str, Any], *, keep_ratio: bool) -> None:
    # A former version saved at reports only, when nothing was collected.
    former: dict[str, Any] = {"reported_at": saved["images_seen"] or None, "window_seconds": 0.0, "collected": []}
    for name in SAVED + SCORED:
        setattr(state, name, {**former, **saved}[name])
    if not keep_ratio:
        state.ratio.load_state_dict(saved["ratio"])
    state.alarms.load_state_dict(saved["alarms"])
    state.history.load_state_dict(state.collected)
    state.last_good = state.images_seen


def _take_up_parts(parts: Parts, saved: Mapping[str, Any], *, keep_probability: bool) -> None:
    if parts.game.anchors is not None:
        parts.game.anchors.copy_(saved["anchors"])
    if parts.game.augmenter is not None and not keep_probability:
        parts.game.augmenter.load_state_dict(saved["augmenter"])
    if parts.game.path is not None:
        parts.game.path.mean.copy_(saved["path_length"])
    parts.g.network.load_state_dict(saved["generator"])
    parts.d.network.load_state_dict(saved["discriminator"])
    parts.g_ema.network.load_state_dict(saved["g_ema"])
    load_moments(parts.g.optimizer, saved["generator_optimizer"])
    load_moments(parts.d.optimizer, saved["discriminator_optimizer"])
