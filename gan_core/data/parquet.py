"""Images in Parquet files: a column of encoded bytes, or of struct<bytes, path> as Hugging Face writes it, and optional labels.

Images are decoded once into a memory-mapped cache of uint8 pixels that all workers of a node share.
"""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, Field

from gan_core.data import _cache
from gan_core.data._decode import CorruptImageError, Layout, decode, size_of
from gan_core.datatypes import ImageDataset

LocalPath = Annotated[str, AfterValidator(lambda path: os.path.abspath(os.path.expanduser(path)))]
Resize = Literal["never", "nearest", "box", "bilinear", "bicubic", "lanczos"]
ROWS_AT_ONCE = 1024
ROWS_SHOWN = 10


def load(
    *,
    path: LocalPath,
    resolution: Annotated[int, Field(gt=0)] | None = None,
    channels: Literal[1, 3] | None = None,
    resize: Resize = "never",
    image_column: str = "image",
    label_column: str | None = None,
    max_corrupt_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0,
    cache_dir: LocalPath | None = None,
) -> ImageDataset:
    """Images [count, channels, resolution, resolution] uint8 from the Parquet file, or folder of Parquet files, at `path`.

    `resolution` and `channels` default to those of the first image. An image of another size is an error under `resize:
    never`; with a filter, its short side is resized to `resolution` and its centre cropped. `label_column` defaults to
    `label` where there is one. A row that cannot be decoded is dropped and reported; more than `max_corrupt_fraction` of
    such rows is an error. The cache lies in `cache_dir`, else in $RAYGAN_CACHE, else in ~/.cache/raygan.

    Raises:
        ValueError: nothing at `path`, no rows, no usable image column, sizes that `resize` does not allow, too many corrupt rows.
    """
    files = _files(Path(path))
    columns = _columns(files, image_column, label_column)
    settings = {"resolution": resolution, "channels": channels, "resize": resize, "image": image_column, "label": columns.label}
    folder = Path(cache_dir or os.environ.get("RAYGAN_CACHE") or "~/.cache/raygan").expanduser()
    with _cache.entry(folder, files, settings) as cache:
        if not cache.is_complete():
            layout = _layout(files, columns, resolution, channels, resize)
            try:
                _fill(cache, files, columns, layout)
            except OSError as error:  # a damaged page, a full disk
                raise ValueError(f"data: {path} could not be decoded into {cache.folder.parent} ({error})") from None
        manifest, images, labels = cache.read()
    _require_few_corrupt(path, manifest, max_corrupt_fraction, cache.folder)
    classes = int(labels.max()) + 1 if labels is not None else 0
    return ImageDataset(_name(Path(path)), images, labels, manifest["content_hash"], num_classes=classes, source=str(path))


class Columns(NamedTuple):
    """The columns to read; `nested` says that images are struct<bytes, ...>."""

    image: str
    nested: bool
    label: str | None


class Row(NamedTuple):
    """One row: its file and number (from 0), the encoded image or None, the label (-1 without labels) or None."""

    place: str
    encoded: bytes | None
    label: int | None


def _name(path: Path) -> str:
    """`mnist/train` for .../mnist/train.parquet: a stem alone is too often just `train`."""
    return path.name if path.is_dir() else f"{path.parent.name}/{path.stem}"


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise ValueError(f"data.path: nothing at {path}; give a Parquet file, or a folder that holds some")
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"data.path: the folder {path} holds no *.parquet file")
    return files


def _columns(files: list[Path], image: str, label: str | None) -> Columns:
    """Check every file's schema, before any image is decoded."""
    found = Columns(image, False, label)
    rows = 0
    for file in files:
        try:
            parquet = pq.ParquetFile(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"data.path: {file} is not a readable Parquet file ({error})") from None
        schema = parquet.schema_arrow
        rows += parquet.metadata.num_rows
        if image not in schema.names:
            raise ValueError(f"data.image_column: {file} has no column '{image}'; its columns: {', '.join(schema.names)}")
        kind = schema.field(image).type
        nested = pa.types.is_struct(kind)
        if nested and "bytes" in {field.name for field in kind}:
            kind = kind.field("bytes").type
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise ValueError(f"data.image_column: '{image}' in {file} is {kind}; it must hold encoded bytes, or struct<bytes, path>")
        if label is not None and label not in schema.names:
            raise ValueError(f"data.label_column: {file} has no column '{label}'; its columns: {', '.join(schema.names)}")
        labelled = label or ("label" if "label" in schema.names else None)
        if labelled and not pa.types.is_integer(schema.field(labelled).type):
            raise ValueError(f"data.label_column: '{labelled}' in {file} is {schema.field(labelled).type}; labels must be integers")
        if file != files[0] and (nested, labelled) != found[1:]:
            raise ValueError(f"data.path: {file} and {files[0]} have different image or label columns")
        found = Columns(image, nested, labelled)
    if rows == 0:
        raise ValueError(f"data.path: {files[0] if len(files) == 1 else files[0].parent} holds no rows")
    return found


def _rows(files: list[Path], columns: Columns) -> Iterator[list[Row]]:
    names = [columns.image] + ([columns.label] if columns.label else [])
    for file in files:
        number = 0
        for batch in pq.ParquetFile(file).iter_batches(ROWS_AT_ONCE, columns=names):
            cells: list[Any] = batch.column(columns.image).to_pylist()
            if columns.nested:
                cells = [cell and cell["bytes"] for cell in cells]
            labels = batch.column(columns.label).to_pylist() if columns.label else [-1] * len(cells)
            yield [Row(f"{file.name} row {number + i}", *row) for i, row in enumerate(zip(cells, labels, strict=True))]
            number += len(cells)


def _layout(files: list[Path], columns: Columns, resolution: int | None, channels: int | None, resize: Resize) -> Layout:
    """Settings that were left open, read off the first image that can be decoded."""
    for rows in _rows(files, columns):
        for row in rows:
            try:
                width, height, found_channels = size_of(row.encoded)
            except CorruptImageError:
                continue
            if resolution is None and width != height:
                raise ValueError(f"{row.place} is {width}x{height}; set data.resolution and data.resize to make images square")
            return Layout(resolution or width, channels or found_channels, resize)
    raise ValueError(f"data.path: no image in {files[0]} can be decoded")


def _fill(cache: _cache.Entry, files: list[Path], columns: Columns, layout: Layout) -> None:
    def pixels_of(row: Row) -> np.ndarray[Any, np.dtype[np.uint8]] | str:
        if columns.label and (row.label is None or row.label < 0):
            return f"{row.place}: label {row.label}"
        try:
            return decode(row.encoded, layout, row.place)
        except CorruptImageError as error:
            return f"{row.place}: {error}"

    with cache.writer(layout.channels, layout.resolution) as writer, ThreadPoolExecutor(os.cpu_count()) as pool:
        for rows in _rows(files, columns):
            for row, result in zip(rows, pool.map(pixels_of, rows), strict=True):
                if isinstance(result, str):
                    writer.drop(result)
                else:
                    writer.add(result, row.label if columns.label else None)


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
