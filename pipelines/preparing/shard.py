"""One block of a source into one shard, by whoever does the work: a function of the block and the job, whose record is all that returns."""

import json
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from gan_core.data import _shards
from gan_core.data._decode import NO_LABEL, CorruptImageError, Layout, SizeError, decode, quietly
from pipelines.preparing import places, sources
from pipelines.preparing.inventory import Block, Request

Record = dict[str, Any]
PIXELS_AT_ONCE = 2**16  # in a core's cache
EXAMPLES_OF_A_CLASS, CLASSES_WITH_EXAMPLES = 8, 64


class Job(NamedTuple):
    """What is the same for all blocks: the source, its kind, what images shall be, and where they go. `key` names the settings."""

    kind: str
    request: Request
    layout: Layout
    labelled: bool
    classes: list[str]
    labelling: dict[str, Any]
    destination: str
    key: str


def record_name(number: int) -> str:
    """The file that says that a shard is complete."""
    return f"{_shards.shard_name(number).removesuffix('.parquet')}.json"


def make(block: Block, job: Job) -> Record:
    """Read, decode and write the shard, then its record; returns the record.

    Raises:
        OSError: the source or the destination fails.
    """
    layout = job.layout
    pixels = np.empty((block["count"], layout.channels, layout.resolution, layout.resolution), np.uint8)
    labels: list[int] = []
    kept: list[str] = []
    dropped: list[tuple[str, str, str]] = []
    converted: Counter[str] = Counter()
    with quietly():
        for place, content, label in sources.read(job.kind, job.request, job.labelling, block):
            if job.labelled and (label is None or label < 0) and not isinstance(content, CorruptImageError):
                dropped.append((place, NO_LABEL, f"label {label}"))
                continue
            try:
                image = decode(content, layout)
            except (CorruptImageError, SizeError) as error:
                dropped.append((place, error.reason, str(error)))
                continue
            pixels[len(kept)] = image.pixels
            kept.append(place)
            if label is not None:
                labels.append(label)
            if image.conversions:
                converted.update(image.conversions)
    pixels = pixels[: len(kept)]
    told = {"dropped": dropped, "converted": dict(sorted(converted.items()))}
    known = np.asarray(labels, np.int64) if job.labelled else None
    return _keep(block, job, pixels=pixels, labels=known, kept=kept, told=told)


def _keep(
    block: Block,
    job: Job,
    *,
    pixels: np.ndarray[Any, np.dtype[np.uint8]],
    labels: np.ndarray[Any, np.dtype[np.int64]] | None,
    kept: list[str],
    told: dict[str, Any],
) -> Record:
    """Write the shard and then its record."""
    destination = places.locate(job.destination)
    written = _shards.write_shard(pixels, labels, kept, job.classes)
    file = _shards.shard_name(block["number"])
    places.write(destination, file, written.content)
    sums, squares = _sums(pixels)
    record = {
        "key": job.key,
        "number": block["number"],
        "file": file,
        "count": len(kept),
        "bytes": len(written.content),
        "sha256": written.sha256,
        "sums": sums,
        "squares": squares,
        "labels": {} if labels is None else _histogram(labels),
        "examples": _examples(labels, len(kept)),
        **told,
    }
    places.write(destination, record_name(block["number"]), json.dumps(record).encode())
    return record


def _sums(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[list[int], list[int]]:
    """For each channel the sum of its pixels and of their squares, exactly: float64 holds whole numbers up to 2^53."""
    sums, squares = [], []
    for channel in range(pixels.shape[1]):
        total = square = 0
        step = max(1, PIXELS_AT_ONCE // (pixels.shape[2] * pixels.shape[3]))
        for first in range(0, len(pixels), step):
            values = pixels[first : first + step, channel].astype(np.float64).ravel()
            total += int(values.sum())
            # Not np.dot: when Ray starts in another thread, a fork stops the threads of OpenBLAS, which np.dot then waits for.
            square += int(np.einsum("i,i->", values, values))
        sums.append(total)
        squares.append(square)
    return sums, squares


def _histogram(labels: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, int]:
    found, counts = np.unique(labels, return_counts=True)
    return {str(label): int(count) for label, count in zip(found, counts, strict=True)}


def _examples(labels: np.ndarray[Any, np.dtype[np.int64]] | None, count: int) -> dict[str, list[int]]:
    """Rows of the shard for the preview: the first of each class, or without labels some from all over it."""
    if labels is None:
        step = max(1, count // EXAMPLES_OF_A_CLASS)
        return {"": list(range(0, count, step))[:EXAMPLES_OF_A_CLASS]}
    return {
        str(label): np.flatnonzero(labels == label)[:EXAMPLES_OF_A_CLASS].tolist() for label in np.unique(labels)[:CLASSES_WITH_EXAMPLES]
    }
