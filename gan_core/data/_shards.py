"""Prepared data sets: Parquet shards of raw pixels, and the dataset.json that names and hashes them. Written by `raygan prepare`, read
by gan_core.data.parquet; what both must agree on is here. Needs no PyTorch.
"""

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gan_core.data._tables import LARGEST_CLASSES, Place, Stamp

MANIFEST = "dataset.json"
UNFINISHED = "preparing.json"  # there while the shards are made
FORMAT = "raygan images"
VERSION = 2
LARGEST_MANIFEST_BYTES = 2**30
ROW_GROUP_BYTES = 2**22
COMPRESSION_LEVEL = 1
SHARD_NAME = re.compile(r"part-[0-9]{5,9}\.parquet")  # pydantic's engine takes the digits of all scripts for \d


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"part-{number:05}.parquet"


class Shard(BaseModel):
    """A shard of the manifest: its file, images, size, and the hash of its pixels and labels."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    file: str = Field(pattern=f"^{SHARD_NAME.pattern}$", max_length=40)
    count: Annotated[int, Field(ge=0)]
    bytes: Annotated[int, Field(gt=0)]
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """What a reader needs of dataset.json. `classes` are names, empty without labels."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    format: Literal["raygan images"]
    version: Literal[2]
    resolution: Annotated[int, Field(gt=0, le=2**16)]
    channels: Literal[1, 3]
    labelled: bool
    classes: Annotated[list[str], Field(max_length=LARGEST_CLASSES)]
    count: Annotated[int, Field(gt=0)]
    shards: list[Shard]
    content_hash: str

    @property
    def image_bytes(self) -> int:
        """Of one image."""
        return self.channels * self.resolution**2


def content_hash(*, channels: int, resolution: int, labelled: bool, classes: list[str], shard_hashes: list[str]) -> str:
    """The name of the whole content: of its shape, the names of its classes, and the shards in their order; so also of how it was cut."""
    return sha256(json.dumps([FORMAT, VERSION, channels, resolution, labelled, classes, shard_hashes]).encode()).hexdigest()


class Digest:
    """The hash of a shard: the shape, all pixels, then all labels as little-endian int64."""

    def __init__(self, channels: int, resolution: int) -> None:
        self._hash = sha256(f"{channels}x{resolution}x{resolution}".encode())

    def update(self, pixels: memoryview) -> None:
        """Some images more."""
        self._hash.update(pixels)

    def finish(self, labels: np.ndarray[Any, np.dtype[np.int64]]) -> str:
        """The labels, none without; returns the hash."""
        self._hash.update(labels.astype("<i8").tobytes())
        return self._hash.hexdigest()


class Written(NamedTuple):
    """A shard as a file's content, and its hash."""

    content: Any
    sha256: str


def write_shard(
    pixels: np.ndarray[Any, np.dtype[np.uint8]],
    labels: np.ndarray[Any, np.dtype[np.int64]] | None,
    sources: list[str],
    classes: list[str],
) -> Written:
    """Images [count, C, R, R] with labels [count] or None, and where each came from, as a Parquet file."""
    count, channels, resolution, _ = pixels.shape
    flat = np.ascontiguousarray(pixels).reshape(-1).data
    image_bytes = channels * resolution**2
    images = pa.Array.from_buffers(pa.binary(image_bytes), count, [None, pa.py_buffer(flat)])
    columns = {"image": images}
    if labels is not None:
        # By their buffer, because pa.array of a NumPy array imports pandas, which costs each process a quarter of a second.
        columns["label"] = pa.Array.from_buffers(pa.int64(), count, [None, pa.py_buffer(np.ascontiguousarray(labels, np.int64))])
    columns["source"] = pa.array(sources, pa.string())
    about = {"format": FORMAT, "version": VERSION, "resolution": resolution, "channels": channels, "classes": classes}
    table = pa.table(columns).replace_schema_metadata({"raygan": json.dumps(about)})
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=max(1, ROW_GROUP_BYTES // image_bytes),
        compression="zstd",
        compression_level=COMPRESSION_LEVEL,
        use_dictionary=False,
        write_statistics=False,
    )
    digest = Digest(channels, resolution)
    digest.update(flat)
    return Written(sink.getvalue(), digest.finish(np.empty(0, np.int64) if labels is None else labels))


def read_manifest(place: Place) -> Manifest | None:
    """The manifest of the prepared data set at `place`, checked in itself; None where there is no such data set.

    Raises:
        ValueError: preparing it was never finished, or dataset.json is damaged, or of another version.
    """
    file = f"{place.path.rstrip('/')}/{MANIFEST}"
    try:
        manifest, unfinished = place.filesystem.get_file_info([file, f"{place.path.rstrip('/')}/{UNFINISHED}"])
        if manifest.type != pyarrow.fs.FileType.File:
            if unfinished.type == pyarrow.fs.FileType.File:
                raise ValueError(f"data.path: {place.address} is not finished; call its `raygan prepare` again, which goes on")
            return None
        if manifest.size > LARGEST_MANIFEST_BYTES:
            raise ValueError(f"data.path: {MANIFEST} of {place.address} has {manifest.size} bytes; prepare the data set again")
        with place.filesystem.open_input_stream(file) as stream:
            text = stream.read()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"data.path: {place.address} cannot be reached ({error})") from None
    try:
        found = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise ValueError(
            f"data.path: {MANIFEST} of {place.address} is damaged ({where}: {first['msg']}); prepare the data set again"
        ) from None
    _require_agreement(place, found)
    return found


def _require_agreement(place: Place, manifest: Manifest) -> None:
    hashes = [shard.sha256 for shard in manifest.shards]
    expected = content_hash(
        channels=manifest.channels,
        resolution=manifest.resolution,
        labelled=manifest.labelled,
        classes=manifest.classes,
        shard_hashes=hashes,
    )
    for wrong, what in (
        (sum(shard.count for shard in manifest.shards) != manifest.count, "its shards do not have as many images as it says"),
        (len({shard.file for shard in manifest.shards}) != len(manifest.shards), "it names a shard twice"),
        (expected != manifest.content_hash, "its content hash is not that of its shards and classes"),
    ):
        if wrong:
            raise ValueError(f"data.path: {MANIFEST} of {place.address} disagrees with itself: {what}; prepare the data set again")


def require_shards(place: Place, manifest: Manifest, files: list[Stamp]) -> None:
    """Check that the folder holds the manifest's shards, with their sizes, and no others.

    Raises:
        ValueError: it does not.
    """
    there = {stamp.path.rpartition("/")[2]: stamp.size for stamp in files}
    named = {shard.file: shard.bytes for shard in manifest.shards}
    missing, extra = sorted(named.keys() - there.keys()), sorted(there.keys() - named.keys())
    changed = sorted(file for file in named.keys() & there.keys() if named[file] != there[file])
    for names, what in ((missing, "is missing"), (extra, f"is not in {MANIFEST}"), (changed, "has another size than when it was written")):
        if names:
            raise ValueError(
                f"data.path: {names[0]} {what} in {place.address}"
                + (f", and {len(names) - 1} more" if len(names) > 1 else "")
                + "; fetch the data set again, or call its `raygan prepare` again with --overwrite"
            )


class Pixels(NamedTuple):
    """Consecutive images of a shard: their pixels as they lie in memory, and how many."""

    pixels: memoryview
    images: int


def read_shard(place: Place, manifest: Manifest, shard: Shard) -> Iterator[Pixels | np.ndarray[Any, np.dtype[np.int64]]]:
    """The shard's images in parts, and last its labels [count], empty without; only when these were given it was found whole.

    Raises:
        ValueError: it is not what the manifest says.
    """
    where = f"data.path: {shard.file} of {place.address}"
    damaged = f"{where} is damaged"
    remedy = "fetch the data set again, or call its `raygan prepare` again with --overwrite"
    digest, labels = Digest(manifest.channels, manifest.resolution), [np.empty(0, np.int64)]
    try:
        with place.filesystem.open_input_file(f"{place.path.rstrip('/')}/{shard.file}") as stream:
            parquet = pq.ParquetFile(stream)
            _require_schema(where, parquet, manifest, shard)
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group, columns=["image", "label"] if manifest.labelled else ["image"])
                if any(column.null_count for column in table.columns):
                    raise ValueError(f"{damaged}: empty cells; {remedy}")
                for chunk in table.column("image").chunks:
                    pixels = memoryview(chunk.buffers()[1])[chunk.offset * manifest.image_bytes :][: len(chunk) * manifest.image_bytes]
                    digest.update(pixels)
                    yield Pixels(pixels, len(chunk))
                if manifest.labelled:
                    labels.append(table.column("label").to_numpy())
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{damaged} ({str(error).strip()}); {remedy}") from None
    together = np.concatenate(labels)
    if digest.finish(together) != shard.sha256:
        raise ValueError(f"{damaged}: its pixels or labels are not those that were written; {remedy}")
    if manifest.labelled and len(together) and not 0 <= together.min() <= together.max() < max(len(manifest.classes), 1):
        raise ValueError(f"{where} has labels beyond the {len(manifest.classes)} classes of {MANIFEST}; prepare the data set again")
    yield together


def _require_schema(where: str, parquet: Any, manifest: Manifest, shard: Shard) -> None:
    """The file's own words against the manifest's. Metadata are JSON, and nothing in them is acted on."""
    schema = parquet.schema_arrow
    expected = {"image": pa.binary(manifest.image_bytes)} | ({"label": pa.int64()} if manifest.labelled else {})
    for name, kind in expected.items():
        found = schema.field(name).type if name in schema.names else "missing"
        if found != kind:
            raise ValueError(f"{where}: column '{name}' is {found}, and {MANIFEST} means {kind}; prepare the data set again")
    if parquet.metadata.num_rows != shard.count:
        raise ValueError(f"{where} has {parquet.metadata.num_rows} images, and {MANIFEST} says {shard.count}; prepare the data set again")
    try:
        about = json.loads((schema.metadata or {}).get(b"raygan", b"null"))
    except (ValueError, RecursionError):
        about = None
    said = [about.get(key) for key in ("format", "version", "resolution", "channels")] if isinstance(about, dict) else None
    if said != [FORMAT, VERSION, manifest.resolution, manifest.channels]:
        raise ValueError(f"{where} is of another resolution, kind or version than {MANIFEST} says; prepare the data set again")
