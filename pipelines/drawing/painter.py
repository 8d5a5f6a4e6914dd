"""Who draws: a generator that is loaded once, and then makes encoded images of ranges of seeds; here, or as an actor of Ray Data."""

import logging
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import torch

from gan_core import portable, truncation
from gan_core.drawing import BLOCK, images_of_seeds, label_of, one_thread, pixels
from gan_core.portable import Description
from pipelines.drawing import outputs

Weights = dict[str, torch.Tensor]
BLOCKS_OF_AN_ACTOR = 32  # into which tasks are divided: each is put into Ray's store before the first image, in 4 ms
LARGEST_BLOCK = 16  # tasks: what waits for an earlier block is held


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
    """The tables of all tasks in their order, drawn by a pool of `workers` actors of Ray Data on the connected cluster.

    Ray Data holds tasks back while the images that wait fill its share of the object store, so memory does not grow with their number. An
    actor that dies is replaced and its tasks are drawn again: the same images.

    Raises:
        RuntimeError: an actor could not draw.
    """
    import ray.data
    from ray.exceptions import RayError

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    drawn = ray.data.from_arrow(_blocks(list(work), workers)).map_batches(
        _Actor,
        batch_format="pyarrow",
        batch_size=1,
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=gpus,
        fn_constructor_args=(description, ray.put(weights), recipe),
    )
    try:
        yield from drawn.iter_batches(batch_format="pyarrow", batch_size=None)
    except RayError as error:
        raise RuntimeError(f"a worker failed: {str(error).strip().splitlines()[-1]}") from error


def _blocks(work: list[Task], workers: int) -> list[pa.Table]:
    """The tasks in tables of a few rows: enough for all actors to have work to the end."""
    rows = min(max(len(work) // (BLOCKS_OF_AN_ACTOR * workers), 1), LARGEST_BLOCK)
    starts = range(0, len(work), rows)
    return [pa.Table.from_pylist([task._asdict() for task in work[start : start + rows]]) for start in starts]


class _Actor(Painter):
    """A Painter that fetches the weights, which all actors of a node share."""

    def __init__(self, description: dict[str, Any], weights: Any, recipe: Recipe) -> None:
        import ray

        super().__init__(description, ray.get(weights), recipe)

    def __call__(self, task: pa.Table) -> pa.Table:
        """The images of a task, which has one row."""
        return self.draw(task["first"][0].as_py(), task["images"][0].as_py())


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
