"""Images in Parquet files: prepared by `raygan prepare`, or encoded, in a column of bytes or of struct<bytes, path> as Hugging Face writes
it; with optional labels. On this machine, or at an address such as s3://bucket/folder.

Images are unpacked or decoded once into a memory-mapped cache of uint8 pixels that all workers of a node share.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from gan_core.data import _cache, _shards, _tables
from gan_core.data._decode import Row
from gan_core.data._encoded import AnyPath, LocalPath, Resize, Source, Wanted, decoded
from gan_core.data._tables import Place, Stamp
from gan_core.datatypes import ImageDataset


def load(
    *,
    path: AnyPath,
    resolution: Annotated[int, Field(gt=0)] | None = None,
    channels: Literal[1, 3] | None = None,
    resize: Resize = "never",
    image_column: str = "image",
    label_column: str | None = None,
    max_corrupt_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0,
    cache_dir: LocalPath | None = None,
) -> ImageDataset:
    """Images [count, channels, resolution, resolution] uint8 from the Parquet file, or folder of Parquet files, at `path`.

    Of a prepared data set, a folder with dataset.json, the shards are checked against their hashes, and its content hash is that of
    dataset.json; the settings below were settled when it was prepared, and `resize` has nothing to do.

    `resolution` and `channels` default to those of the first image. An image of another size is an error under `resize:
    never`; with a filter, its short side is resized to `resolution` and its centre cropped. `label_column` defaults to
    `label` where there is one. A row that cannot be decoded is dropped and reported; more than `max_corrupt_fraction` of
    such rows is an error. The cache lies in `cache_dir`, else in $RAYGAN_CACHE, else in ~/.cache/raygan.

    Raises:
        ValueError: nothing at `path`, no rows, no usable image column, sizes that `resize` does not allow, too many corrupt rows, a
            label of 1,000,000 or more; a prepared data set that is damaged, or was prepared otherwise than the settings say.
    """
    place = _tables.locate(path)
    manifest = _shards.read_manifest(place)
    files = _tables.parquet_files(place)
    if manifest is not None:
        for key, given, there in (
            ("resolution", resolution, manifest.resolution),
            ("channels", channels, manifest.channels),
            ("image_column", image_column if image_column != "image" else None, "image"),
            ("label_column", label_column, "label"),
            ("max_corrupt_fraction", max_corrupt_fraction or None, 0.0),
        ):
            if given not in (None, there):
                raise ValueError(f"data.{key}: {path} was prepared with {key} {there}, given {given}; leave it out, or prepare it again")
        return _prepared(place, manifest, files, cache_dir)
    columns, metadata = _tables.find_columns(place, files, image_column, label_column)
    _tables.require_labels(place, files, metadata, columns.label)

    def rows() -> Iterator[list[Row]]:
        for part in _tables.row_groups(files, metadata):
            yield from _tables.read_rows(place.filesystem, part, columns)

    source = Source(path, _stamps(place, files), rows, labelled=columns.label is not None)
    wanted = Wanted(resolution, channels, resize, {"image": image_column, "label": columns.label})
    stored = decoded(source, wanted, max_corrupt_fraction=max_corrupt_fraction, cache_dir=cache_dir)
    seen = int(stored.labels.max()) + 1 if stored.labels is not None else 0
    names = _tables.class_names(metadata[0], columns.label)
    return _dataset(place, stored, max(seen, len(names)) if seen else 0, names if seen <= len(names) else [])


def _prepared(place: Place, manifest: _shards.Manifest, files: list[Stamp], cache_dir: str | None) -> ImageDataset:
    """The shards, checked and unpacked."""
    _shards.require_shards(place, manifest, files)
    settings = {"prepared": _shards.VERSION, "content": manifest.content_hash}
    with _cache.entry(_cache.folder(cache_dir), _stamps(place, files), settings) as cache:
        if not cache.is_complete():
            try:
                with cache.writer(manifest.channels, manifest.resolution) as writer:
                    writer.content_hash = manifest.content_hash
                    for shard in manifest.shards:
                        for part in _shards.read_shard(place, manifest, shard):
                            if isinstance(part, np.ndarray):
                                writer.labels.extend(part.tolist())
                            else:
                                writer.extend(part.pixels, part.images)
            except OSError as error:  # a full disk
                raise ValueError(f"data: {place.address} could not be unpacked into {cache.folder.parent} ({error})") from None
        stored = cache.read()
    return _dataset(place, stored, len(manifest.classes), manifest.classes)


def _dataset(place: Place, stored: _cache.Stored, classes: int, names: list[str]) -> ImageDataset:
    return ImageDataset(
        _name(place),
        stored.images,
        stored.labels,
        stored.manifest["content_hash"],
        num_classes=classes,
        source=place.address,
        pages=stored.pages,
        class_names=tuple(names) if stored.labels is not None else (),
    )


def _stamps(place: Place, files: list[Stamp]) -> list[Stamp]:
    """With the address, because paths of different object stores may be alike."""
    return files if place.path == place.address else [Stamp(place.address, 0, 0), *files]


def _name(place: Place) -> str:
    """`mnist/train` for .../mnist/train.parquet: a stem alone is too often just `train`."""
    if not place.name.endswith(".parquet"):
        return place.name
    return f"{place.path.split('/')[-2]}/{place.name.removesuffix('.parquet')}" if "/" in place.path else place.name
