"""Who draws: a generator that is loaded once, and then makes encoded images of ranges of seeds; here, or as a Ray actor."""

import os
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import torch

from gan_core import portable, truncation
from gan_core.drawing import BLOCK, images_of_seeds, label_of, one_thread, pixels
from gan_core.portable import Description
from pipelines.drawing import outputs

Weights = dict[str, torch.Tensor]
TASKS_OF_AN_ACTOR = 2  # the one that it draws and the next one
MOST_RESTARTS = 10  # of one actor


class Task(NamedTuple):
    """`images` of the seeds from `first` on."""

    first: int
    images: int


class Recipe(NamedTuple):
    """What every image is made by. `label` None lets the classes take turns; `truncation` None is off."""

    label: int | None
    truncation: float | None


class Painter:
    """Draws ranges of seeds as tables of PNG files: columns image and seed, and label for a conditional generator.

    Raises:
        ValueError: `description` and `weights` are of different networks.
    """

    def __init__(self, description: dict[str, Any], weights: Weights, recipe: Recipe) -> None:
        self.about = Description.model_validate(description)
        self.recipe = recipe
        torch.backends.cudnn.deterministic = True
        generator = portable.build(self.about.gan, self.about.shape, weights)
        generator = generator.to("cuda" if torch.cuda.is_available() else "cpu")
        with one_thread():
            self.model = truncation.truncatable(generator, z_dim=self.about.gan.network.z_dim, num_classes=self.about.shape.num_classes)
        self.truncation = truncation.require_truncation(self.model, recipe.truncation)

    def draw(self, first: int, count: int) -> pa.Table:
        """The images of `count` seeds from `first` on."""
        classes, encoded = self.about.shape.num_classes, []
        with one_thread():
            drawn = images_of_seeds(
                self.model,
                first,
                count,
                z_dim=self.about.gan.network.z_dim,
                num_classes=classes,
                label=self.recipe.label,
                truncation=self.truncation,
            )
            for images in drawn:
                encoded += [outputs.png(picture) for picture in pixels(images)]
        seeds = range(first, first + count)
        labels = [label_of(seed, classes, self.recipe.label) for seed in seeds] if classes else None
        names = [_file_name(seed, None if labels is None else labels[seed - first]) for seed in seeds]
        image = pa.StructArray.from_arrays([pa.array(encoded, pa.binary()), pa.array(names)], ["bytes", "path"])
        columns = {
            "image": image,
            **({} if labels is None else {"label": pa.array(labels, pa.int64())}),
            "seed": pa.array(seeds, pa.int64()),
        }
        return pa.table(columns)


def _file_name(seed: int, label: int | None) -> str:
    return f"seed{seed:010d}.png" if label is None else f"seed{seed:010d}_label{label}.png"


def tasks(first_seed: int, count: int, batch_size: int) -> Iterator[Task]:
    """Consecutive ranges that end at multiples of `batch_size`, rounded up to whole blocks: none is drawn twice."""
    size, end = -(-batch_size // BLOCK) * BLOCK, first_seed + count
    while first_seed < end:
        stop = min((first_seed // size + 1) * size, end)
        yield Task(first_seed, stop - first_seed)
        first_seed = stop


def pooled(
    work: Iterator[Task], description: dict[str, Any], weights: Weights, recipe: Recipe, *, workers: int, gpus: float
) -> Iterator[pa.Table]:
    """The tables of all tasks in their order, drawn by `workers` actors on the connected cluster.

    Each actor has a task and the next one; tasks are held back while four for each actor are drawn or wait for an earlier one, so memory
    does not grow with their number. An actor that dies is replaced and its tasks are drawn again: the same images.

    Raises:
        RuntimeError: an actor could not draw.
    """
    import ray
    from ray.exceptions import RayError

    shared = ray.put(weights)
    kind = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=MOST_RESTARTS, max_task_retries=-1)(_Actor)
    actors = [kind.remote(description, shared, recipe) for _ in range(workers)]
    running = {actor.ready.remote(): actor for actor in actors for _ in range(TASKS_OF_AN_ACTOR)}  # none is given to one without a place
    idle: deque[Any] = deque()
    order: deque[Any] = deque()
    drawn: dict[Any, pa.Table] = {}
    task = next(work, None)
    try:
        while task is not None or order:
            while task is not None and idle and len(order) < 2 * TASKS_OF_AN_ACTOR * workers:
                actor = idle.popleft()
                order.append(reference := actor.draw.remote(*task))
                running[reference] = actor
                task = next(work, None)
            for reference in ray.wait(list(running))[0]:
                idle.append(running.pop(reference))
                drawn[reference] = ray.get(reference)
            while order and order[0] in drawn:
                yield drawn.pop(order.popleft())
    except RayError as error:
        raise RuntimeError(f"a worker failed: {str(error).strip().splitlines()[-1]}") from error


class _Actor(Painter):
    """A Painter that is given the weights by Ray, which all actors of a node share."""

    def ready(self) -> None:
        """Answers when it can draw."""


def require_workers(workers: int | None, gpus: float | None) -> tuple[int, float]:
    """How many actors, and the GPU share of each: one for each GPU of the connected cluster, or CPU where it has none, unless told.

    Raises:
        ValueError: the cluster does not have them.
    """
    import ray

    owned = ray.cluster_resources()
    share = gpus if gpus is not None else (1.0 if owned.get("GPU") else 0.0)
    most = int(owned.get("GPU", 0.0) / share) if share else int(owned.get("CPU", 0.0))
    found = workers or max(most, 1)
    if found > most or found > owned.get("CPU", 0.0):
        raise ValueError(
            f"--workers: {found} workers of 1 CPU and {share:g} GPU each, and the cluster has {owned.get('CPU', 0.0):g} CPU and "
            f"{owned.get('GPU', 0.0):g} GPU; lower --workers or --gpus-per-worker"
        )
    return found, share


def quiet() -> None:
    """Before Ray starts: keep its C++ log, which speaks of its own actors' restarts, off the terminal."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
