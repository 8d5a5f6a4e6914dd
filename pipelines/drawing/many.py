"""Many images: tasks of seeds, drawn here or by workers, streamed in order to one output."""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import version
from typing import Any, NamedTuple

import pyarrow as pa

from gan_core.drawing import BLOCK
from pipelines.cluster import connected
from pipelines.drawing import outputs, painter
from pipelines.drawing.painter import Painter, Recipe
from pipelines.generators import Trained

ALONE_SECONDS = 40.0  # of drawing here, below which starting Ray takes longer than it saves: 15 to 20 s measured on 2 CPUs
TRIED = 4 * BLOCK  # images that tell how long it takes
BATCH_SIZE = 1024  # images of a task
LINE_EVERY_SECONDS = 5.0


class Order(NamedTuple):
    """`images` of seeds from `first_seed` on, to `out`. `workers` 0 draws in this process; None decides by the time that it would take."""

    images: int
    first_seed: int
    out: str
    recipe: Recipe
    batch_size: int
    workers: int | None
    gpus_per_worker: float | None


def draw(trained: Trained, order: Order) -> str:
    """Write the images; returns the last words.

    Raises:
        ValueError: the cluster does not have the workers, or the output cannot be written.
    """
    about = trained.description
    work = painter.tasks(order.first_seed, order.images, order.batch_size)
    parts = (about.model_dump(mode="json"), dict(trained.generator.state_dict()), order.recipe)
    here = Painter(*parts) if order.workers in (0, None) and order.gpus_per_worker is None else None
    if here is not None and order.workers is None and _seconds(here, order.images) > ALONE_SECONDS:
        here = None
    with ExitStack() as stack:
        if here is not None:
            tables: Iterator[pa.Table] = (here.draw(*task) for task in work)
            means = "in this process"
        else:
            painter.quiet()
            stack.enter_context(connected(dashboard=False))
            workers, share = painter.require_workers(order.workers, order.gpus_per_worker)
            tables = painter.pooled(work, *parts, workers=workers, gpus=share)
            means = f"by {workers} worker{'s' if workers > 1 else ''}"
        form = outputs.schema(
            labelled=about.shape.num_classes > 0, class_names=about.shape.class_names, facts=_facts(trained, order.recipe)
        )
        output = stack.enter_context(outputs.opened(order.out, form))
        seconds = _stream(tables, output, order.images)
    drawn = f"{order.images:,} images in {seconds:.1f} s, {order.images / seconds:,.0f} images/s {means}"
    return f"{drawn}\nimages       {order.out}"


def _seconds(here: Painter, images: int) -> float:
    """How long this process would draw: a few are drawn for it, after some more that warm up."""
    here.draw(0, min(images, BLOCK))
    count, started = min(images, TRIED), time.monotonic()
    here.draw(0, count)
    return (time.monotonic() - started) / count * images


def _facts(trained: Trained, recipe: Recipe) -> dict[str, Any]:
    """Where the images come from: nothing that differs between two ways of drawing the same ones."""
    about = trained.description
    return {
        "generator": trained.name,
        "run_id": trained.run_id,
        "images_seen": about.images_seen,
        "content_hash": about.content_hash,
        "network": about.gan.network.name,
        "label": "seed % num_classes" if recipe.label is None and about.shape.num_classes else recipe.label,
        "truncation": recipe.truncation,
        "block": BLOCK,
        "versions": {package: version(package) for package in ("raygan", "torch", "pillow", "pyarrow")},
    }


def _stream(tables: Iterator[pa.Table], output: outputs.Output, count: int) -> float:
    """Write all tables, with a line now and then; returns the seconds since the first one was asked for, in which workers start."""
    started = said = time.monotonic()
    done = 0
    for table in tables:
        output.write(table)
        done += len(table)
        now = time.monotonic()
        if now - said >= LINE_EVERY_SECONDS:
            said, rate = now, done / (now - started)
            left = (count - done) / rate
            print(
                f"{done:>12,}/{count:,} images  {rate:,.0f} images/s  eta {left // 60:02.0f}:{left % 60:02.0f}", file=sys.stderr, flush=True
            )
    if done != count:
        raise RuntimeError(f"{done} of {count} images were drawn")
    return time.monotonic() - started
