"""The latest report of a run as gauges of Ray's own metrics, which Prometheus collects from every node: for eyes and alerts.

MLflow keeps the history and has each point once; a gauge only says what was reported last. Ray exports the names with `ray_` before them.
"""

import math
import threading
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

RUN = ("run_id", "run_name", "experiment")
PLAIN = {
    "raygan_images_seen": ("progress/images_seen", "real images shown to the discriminator"),
    "raygan_images_per_second": ("progress/images_per_second", "images_seen per second since the report before"),
    "raygan_device_seconds": ("progress/device_seconds", "seconds of training and evaluation"),
    "raygan_discriminator_loss": ("d/loss", "mean loss of the discriminator since the report before"),
    "raygan_generator_loss": ("g/loss", "mean loss of the generator since the report before"),
}
FAMILIES = {
    "raygan_quality": ("quality/", "score", "scores of the last evaluation, by name"),
    "raygan_alarm": ("alarm/", "alarm", "1 while the alarm rings, by name"),
}
Series = tuple[str, tuple[tuple[str, str], ...]]
_last: dict[Series, str] = {}  # what this process has exported, and of which run
_lock = threading.Lock()


def labels_of(run_id: str, config: Mapping[str, Any]) -> dict[str, str]:
    """The run's labels, from its config tree."""
    tracked = config["mlflow"]
    return {"run_id": run_id, "run_name": tracked["run_name"] or run_id[:8], "experiment": tracked["experiment"]}


def show(labels: Mapping[str, str], images_seen: int, metrics: Mapping[str, float]) -> None:
    """Export one report, from a process of a Ray cluster that trains one run after the other: the series of those before end."""
    with _lock:
        _end(set(_last.values()) - {labels["run_id"]})
        _export(labels, images_seen, metrics)


def show_beside(labels: Mapping[str, str], images_seen: int, metrics: Mapping[str, float]) -> None:
    """Export one report, from a process of a Ray cluster that trains several runs at once."""
    with _lock:
        _export(labels, images_seen, metrics)


def end(run_id: str) -> None:
    """End the series of a run of this process."""
    with _lock:
        _end({run_id})


def _end(runs: set[str]) -> None:
    """NaN ends a series."""
    for (name, pairs), run_id in list(_last.items()):
        if run_id in runs:
            _gauges()[name].set(math.nan, dict(pairs))
            del _last[name, pairs]


def _export(labels: Mapping[str, str], images_seen: int, metrics: Mapping[str, float]) -> None:
    for name, extra, value in values_of(images_seen, metrics):
        tags = {**labels, **extra}
        _gauges()[name].set(value, tags)
        _last[name, tuple(sorted(tags.items()))] = labels["run_id"]


def values_of(images_seen: int, metrics: Mapping[str, float]) -> Iterator[tuple[str, dict[str, str], float]]:
    """The gauges of a report: name, labels beside the run's, value."""
    known = {**metrics, "progress/images_seen": float(images_seen)}
    for name, (key, _) in PLAIN.items():
        if key in known:
            yield name, {}, known[key]
    for name, (prefix, label, _) in FAMILIES.items():
        for key, value in metrics.items():
            if key.startswith(prefix):
                yield name, {label: key.removeprefix(prefix)}, value


@cache
def _gauges() -> dict[str, Any]:
    from ray.util.metrics import Gauge

    plain = {name: Gauge(name, description, RUN) for name, (_, description) in PLAIN.items()}
    families = {name: Gauge(name, description, (*RUN, label)) for name, (_, label, description) in FAMILIES.items()}
    return plain | families
