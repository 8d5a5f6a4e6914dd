"""Encoded images of any source into the decoded cache: their layout, the decoding by all cores, and what may be corrupt."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator

from gan_core.data import _cache
from gan_core.data._decode import CorruptImageError, Decoded, Layout, Row, SizeError, decode, quietly, size_of
from gan_core.data._tables import Stamp, possible, without_secrets


def _local(path: str) -> str:
    return possible(os.path.abspath(os.path.expanduser(_cache.require_local(path))))


LocalPath = Annotated[str, AfterValidator(_local)]
# Addresses such as s3://bucket/folder stay as they are.
AnyPath = Annotated[str, AfterValidator(lambda path: without_secrets(path) if "://" in path else _local(path))]
Resize = Literal["never", "nearest", "box", "bilinear", "bicubic", "lanczos"]
ROWS_SHOWN = 10


class Source(NamedTuple):
    """Where images come from: a path for messages, the files that decide whether a cache is still true, and their rows in chunks."""

    path: str
    stamps: Sequence[Stamp]
    rows: Callable[[], Iterator[list[Row]]]
    labelled: bool


class Wanted(NamedTuple):
    """What the images shall be; None is taken from the first image. `settings` are further keys that change what is read."""

    resolution: int | None
    channels: int | None
    resize: Resize
    settings: dict[str, Any]


def decoded(source: Source, wanted: Wanted, *, max_corrupt_fraction: float, cache_dir: str | None) -> _cache.Stored:
    """The images of the source, decoded once.

    The cache lies in `cache_dir`, else in $RAYGAN_CACHE, else in ~/.cache/raygan.

    Raises:
        ValueError: nothing can be decoded, sizes that `resize` does not allow, too many corrupt rows, a cache that cannot be written.
    """
    settings = {"resolution": wanted.resolution, "channels": wanted.channels, "resize": wanted.resize, **wanted.settings}
    with _cache.entry(_cache.folder(cache_dir), source.stamps, settings) as cache:
        if not cache.is_complete():
            with quietly():
                layout = _layout(source, wanted)
                try:
                    _fill(cache, source, layout)
                except OSError as error:  # a damaged page, a full disk
                    raise ValueError(f"data: {source.path} could not be decoded into {cache.folder.parent} ({error})") from None
        stored = cache.read()
    _require_few_corrupt(source.path, stored.manifest, max_corrupt_fraction, cache)
    return stored


def _layout(source: Source, wanted: Wanted) -> Layout:
    """Settings that were left open, read off the first image that can be decoded."""
    for rows in source.rows():
        for row in rows:
            try:
                width, height, found_channels = size_of(row.content)
            except CorruptImageError:
                continue
            if wanted.resolution is None and width != height:
                raise ValueError(f"{row.place} is {width}x{height}; set data.resolution and data.resize to make images square")
            return Layout(wanted.resolution or width, wanted.channels or found_channels, wanted.resize)
    raise ValueError(f"data.path: no image in {source.path} can be decoded")


def _fill(cache: _cache.Entry, source: Source, layout: Layout) -> None:
    def result_of(row: Row) -> Decoded | str:
        if source.labelled and (row.label is None or row.label < 0) and not isinstance(row.content, CorruptImageError):
            return f"{row.place}: label {row.label}"
        try:
            return decode(row.content, layout)
        except CorruptImageError as error:
            return f"{row.place}: {error}"
        except SizeError as error:
            raise ValueError(
                f"{row.place} {error}; set data.resolution to the size that the images have, or data.resize=lanczos to resize the short "
                f"side and crop the centre"
            ) from None

    with cache.writer(layout.channels, layout.resolution) as writer, ThreadPoolExecutor(os.cpu_count()) as pool:
        for rows in source.rows():
            for row, result in zip(rows, pool.map(result_of, rows), strict=True):
                if isinstance(result, str):
                    writer.drop(result)
                else:
                    writer.add(result.pixels, row.label if source.labelled else None)
                    for conversion in result.conversions:
                        writer.conversions[conversion] = writer.conversions.get(conversion, 0) + 1


def _require_few_corrupt(path: str, manifest: dict[str, Any], allowed: float, cache: _cache.Entry) -> None:
    corrupt, kept = manifest["corrupt"], manifest["count"]
    if not corrupt:
        return
    fraction = len(corrupt) / (len(corrupt) + kept)
    shown = "\n  ".join(
        corrupt[:ROWS_SHOWN]
        + ([f"and {len(corrupt) - ROWS_SHOWN} more, all in {cache.folder}/manifest.json"] if len(corrupt) > ROWS_SHOWN else [])
    )
    report = f"{len(corrupt)} of {len(corrupt) + kept} rows of {path} cannot be used:\n  {shown}"
    if fraction > allowed or not kept:
        raise ValueError(
            f"{report}\nThis is more than data.max_corrupt_fraction={allowed}; repair them, or set it to {math.ceil(fraction * 1e4) / 1e4}"
        )
    _cache.warn_once(report)
