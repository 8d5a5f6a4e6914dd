"""Images in Parquet files: a column of encoded bytes, or of struct<bytes, path> as Hugging Face writes it, and optional labels.

Images are decoded once into a memory-mapped cache of uint8 pixels that all workers of a node share.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from gan_core.data._encoded import LocalPath, Resize, Row, Source, Wanted, decoded
from gan_core.datatypes import ImageDataset

ROWS_AT_ONCE = 1024


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
    source = Source(path, files, lambda: _rows(files, columns), labelled=columns.label is not None)
    wanted = Wanted(resolution, channels, resize, {"image": image_column, "label": columns.label})
    manifest, images, labels = decoded(source, wanted, max_corrupt_fraction=max_corrupt_fraction, cache_dir=cache_dir)
    classes = int(labels.max()) + 1 if labels is not None else 0
    return ImageDataset(_name(Path(path)), images, labels, manifest["content_hash"], num_classes=classes, source=str(path))


class Columns(NamedTuple):
    """The columns to read; `nested` says that images are struct<bytes, ...>."""

    image: str
    nested: bool
    label: str | None


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
