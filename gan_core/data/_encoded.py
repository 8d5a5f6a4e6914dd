"""Encoded images of any source into the decoded cache: their layout, the decoding by all cores, and what may be corrupt."""

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import AfterValidator
from torch import Tensor

from gan_core.data import _cache
from gan_core.data._decode import CorruptImageError, Layout, decode, size_of

LocalPath = Annotated[str, AfterValidator(lambda path: os.path.abspath(os.path.expanduser(path)))]
Resize = Literal["never", "nearest", "box", "bilinear", "bicubic", "lanczos"]
ROWS_SHOWN = 10


class Row(NamedTuple):
    """One image: its file and number (from 0), the encoded image or None, the label (-1 without labels) or None."""

    place: str
    encoded: bytes | None
    label: int | None


class Source(NamedTuple):
    """Where images come from: a path for messages, the files that decide whether a cache is still true, and their rows in chunks."""

    path: str
    files: list[Path]
    rows: Callable[[], Iterator[list[Row]]]
    labelled: bool


class Wanted(NamedTuple):
    """What the images shall be; None is taken from the first image. `settings` are further keys that change what is read."""

    resolution: int | None
    channels: int | None
    resize: Resize
    settings: dict[str, Any]


def decoded(
    source: Source, wanted: Wanted, *, max_corrupt_fraction: float, cache_dir: str | None
) -> tuple[dict[str, Any], Tensor, Tensor | None]:
    """The cache's manifest, images [count, C, H, W] uint8, memory-mapped, and labels [count] int64 or None.

    The cache lies in `cache_dir`, else in $RAYGAN_CACHE, else in ~/.cache/raygan.

    Raises:
        ValueError: nothing can be decoded, sizes that `resize` does not allow, too many corrupt rows, a cache that cannot be written.
    """
    settings = {"resolution": wanted.resolution, "channels": wanted.channels, "resize": wanted.resize, **wanted.settings}
    with _cache.entry(_cache.folder(cache_dir), source.files, settings) as cache:
        if not cache.is_complete():
            layout = _layout(source, wanted)
            try:
                _fill(cache, source, layout)
            except OSError as error:  # a damaged page, a full disk
                raise ValueError(f"data: {source.path} could not be decoded into {cache.folder.parent} ({error})") from None
        manifest, images, labels = cache.read()
    _require_few_corrupt(source.path, manifest, max_corrupt_fraction, cache.folder)
    return manifest, images, labels


def _layout(source: Source, wanted: Wanted) -> Layout:
    """Settings that were left open, read off the first image that can be decoded."""
    for rows in source.rows():
        for row in rows:
            try:
                width, height, found_channels = size_of(row.encoded)
            except CorruptImageError:
                continue
            if wanted.resolution is None and width != height:
                raise ValueError(f"{row.place} is {width}x{height}; set data.resolution and data.resize to make images square")
            return Layout(wanted.resolution or width, wanted.channels or found_channels, wanted.resize)
    raise ValueError(f"data.path: no image in {source.files[0]} can be decoded")


def _fill(cache: _cache.Entry, source: Source, layout: Layout) -> None:
    def pixels_of(row: Row) -> np.ndarray[Any, np.dtype[np.uint8]] | str:
        if source.labelled and (row.label is None or row.label < 0):
            return f"{row.place}: label {row.label}"
        try:
            return decode(row.encoded, layout, row.place)
        except CorruptImageError as error:
            return f"{row.place}: {error}"

    with cache.writer(layout.channels, layout.resolution) as writer, ThreadPoolExecutor(os.cpu_count()) as pool:
        for rows in source.rows():
            for row, result in zip(rows, pool.map(pixels_of, rows), strict=True):
                if isinstance(result, str):
                    writer.drop(result)
                else:
                    writer.add(result, row.label if source.labelled else None)


def _require_few_corrupt(path: str, manifest: dict[str, Any], allowed: float, folder: Path) -> None:
    corrupt, kept = manifest["corrupt"], manifest["count"]
    if not corrupt:
        return
    fraction = len(corrupt) / (len(corrupt) + kept)
    shown = "\n  ".join(
        corrupt[:ROWS_SHOWN]
        + ([f"and {len(corrupt) - ROWS_SHOWN} more, all in {folder}/manifest.json"] if len(corrupt) > ROWS_SHOWN else [])
    )
    report = f"{len(corrupt)} of {len(corrupt) + kept} rows of {path} cannot be used:\n  {shown}"
    if fraction > allowed or not kept:
        raise ValueError(
            f"{report}\nThis is more than data.max_corrupt_fraction={allowed}; repair them, or set it to {math.ceil(fraction * 1e4) / 1e4}"
        )
    _cache.warn_once(report)
