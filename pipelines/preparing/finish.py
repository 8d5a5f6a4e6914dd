"""What is written when all shards are there: dataset.json, or report.json where too much was dropped, and the preview."""

import json
import math
import platform
from collections import Counter
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from gan_core.data import _shards
from gan_core.data._tables import Place
from pipelines.preparing import places
from pipelines.preparing.shard import EXAMPLES_OF_A_CLASS, Record
from pipelines.preparing.state import PREVIEW, REPORT, require_owner

SIDE_BY_SIDE = 8
TILE_PIXELS = (56, 256)  # smaller images are enlarged by a whole number, larger ones reduced
PACKAGES = ("raygan", "pillow", "numpy", "pyarrow")


class Found(NamedTuple):
    """What is known of the source: the names of its classes, if any; images that could not even be listed; files that are no images."""

    labelled: bool
    classes: list[str] | None
    unusable: list[tuple[str, str, str]]
    others: int


def describe(records: list[Record], settings: dict[str, Any], found: Found) -> dict[str, Any]:
    """The content of dataset.json: a function of the source and the settings alone. `records` are in the order of their shards."""
    channels, resolution = settings["channels"], settings["resolution"]
    histogram: Counter[int] = Counter()
    converted: Counter[str] = Counter()
    for record in records:
        histogram.update({int(label): count for label, count in record["labels"].items()})
        converted.update(record["converted"])
    count = sum(record["count"] for record in records)
    dropped = [tuple(item) for item in found.unusable] + [tuple(item) for record in records for item in record["dropped"]]
    classes = _classes(found, histogram)
    mean, deviation = _moments(records, channels, count * resolution**2)
    return {
        "format": _shards.FORMAT,
        "version": _shards.VERSION,
        "resolution": resolution,
        "channels": channels,
        "labelled": found.labelled,
        "classes": classes,
        "count": count,
        "content_hash": _shards.content_hash(
            channels=channels,
            resolution=resolution,
            labelled=found.labelled,
            classes=classes,
            shard_hashes=[record["sha256"] for record in records],
        ),
        "mean": mean,
        "standard_deviation": deviation,
        "class_counts": [histogram[label] for label in range(len(classes))],
        "found": count + len(dropped),
        "other_files": found.others,
        "dropped_by_reason": dict(sorted(Counter(reason for _, reason, _ in dropped).items())),
        "converted": dict(sorted(converted.items())),
        "settings": settings,
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        "shards": [{key: record[key] for key in ("file", "count", "bytes", "sha256")} for record in records],
        "dropped": [{"source": place, "reason": reason, "detail": detail} for place, reason, detail in dropped],
    }


def _classes(found: Found, histogram: Counter[int]) -> list[str]:
    """The names, and numbers for labels that have none."""
    if not found.labelled:
        return []
    names = found.classes or []
    return names + [str(label) for label in range(len(names), max(histogram, default=-1) + 1)]


def _moments(records: list[Record], channels: int, pixels: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel's pixels, which are from 0 to 1, from whole sums: the order of shards changes nothing."""
    if not pixels:
        return [0.0] * channels, [0.0] * channels
    means, deviations = [], []
    for channel in range(channels):
        total = sum(record["sums"][channel] for record in records)
        square = sum(record["squares"][channel] for record in records)
        means.append(total / pixels / 255)
        deviations.append(math.sqrt((square * pixels - total * total) / pixels**2) / 255)
    return means, deviations


def keep(place: Place, about: dict[str, Any], records: list[Record], *, accepted: bool, owner: str) -> None:
    """Write the preview and the description; as dataset.json, with which training takes the data set, only if it is `accepted`.

    Raises:
        RuntimeError: another call has begun there, or a shard is not as it was written.
    """
    content = json.dumps(about, indent=1).encode()
    if about["count"]:
        places.write(place, PREVIEW, preview(place, about, records))
    there = places.sizes(place)
    changed = [record["file"] for record in records if there.get(record["file"]) != record["bytes"]]
    if changed:
        raise RuntimeError(f"{changed[0]} of {place.address} is not as it was written; does another `raygan prepare` write there?")
    require_owner(place, owner)
    places.write(place, _shards.MANIFEST if accepted else REPORT, content)
    # Without dataset.json, preparing.json stays: training tells by it what the folder is.
    places.delete(place, [name for name in ([_shards.UNFINISHED, REPORT] if accepted else [_shards.MANIFEST]) if name in there])


def preview(place: Place, about: dict[str, Any], records: list[Record]) -> bytes:
    """A PNG of at most 64 images: the first ones of each class in turn, or some from all over an unlabelled set."""
    images = [_image(place, about, records[number], row) for number, row in _chosen(records)]
    side = about["resolution"]
    tile = min(side * max(1, TILE_PIXELS[0] // side), TILE_PIXELS[1])
    rows = -(-len(images) // SIDE_BY_SIDE)
    grid = Image.new("L" if about["channels"] == 1 else "RGB", (SIDE_BY_SIDE * tile, rows * tile), "white")
    for number, image in enumerate(images):
        filtered = Image.Resampling.NEAREST if tile > side else Image.Resampling.LANCZOS
        grid.paste(
            image if tile == side else image.resize((tile, tile), filtered), (number % SIDE_BY_SIDE * tile, number // SIDE_BY_SIDE * tile)
        )
    from io import BytesIO

    buffer = BytesIO()
    grid.save(buffer, "PNG")
    return buffer.getvalue()


def _chosen(records: list[Record]) -> list[tuple[int, int]]:
    """Places (record, row) of the images to show."""
    shown = SIDE_BY_SIDE**2
    by_class: dict[str, list[tuple[int, int]]] = {}
    step = max(1, len(records) // SIDE_BY_SIDE)
    for number, record in enumerate(records):
        for name, rows in record["examples"].items():
            if name or number % step == 0:
                by_class.setdefault(name, []).extend((number, row) for row in rows)
    if list(by_class) == [""]:
        return by_class[""][:shown]
    names = sorted(by_class, key=int)[:shown]
    turns = ((by_class[name][turn], name) for turn in range(EXAMPLES_OF_A_CLASS) for name in names if turn < len(by_class[name]))
    some = [place for _, (place, _) in zip(range(shown), turns)]
    return sorted(some, key=lambda place: (next(names.index(name) for name in names if place in by_class[name]), place))


def _image(place: Place, about: dict[str, Any], record: Record, row: int) -> Image.Image:
    with place.filesystem.open_input_file(f"{place.path}/{record['file']}") as stream:
        parquet = pq.ParquetFile(stream)
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            if row < rows:
                cell = parquet.read_row_group(group, columns=["image"]).column(0)[row].as_py()
                break
            row -= rows
    side = about["resolution"]
    pixels = np.frombuffer(cell, np.uint8).reshape(about["channels"], side, side)
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
