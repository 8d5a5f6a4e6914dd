"""Encoded images in Parquet files: finding the files and columns, and reading rows. Needs no PyTorch."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from gan_core.data._decode import Row
from gan_core.wording import holds_secret

ROWS_AT_ONCE = 1024
LONGEST_SHOWN = 100  # characters of a path in a message
LARGEST_CLASSES = 1_000_000  # one label of 40,000,000 would make as many classes


class Place(NamedTuple):
    """A file or folder on a file system: where pyarrow finds it, and the address that the user gave."""

    filesystem: Any
    path: str
    address: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rpartition("/")[2]


class Stamp(NamedTuple):
    """A file: its path on the file system, and what changes when it does."""

    path: str
    size: int
    modified: int


class Columns(NamedTuple):
    """The columns to read; `nested` says that images are struct<bytes, ...>."""

    image: str
    nested: bool
    label: str | None


class Part(NamedTuple):
    """Rows `first` ... `stop` - 1, by their number in the file, of a row group of a file, which begins at row `group_first`."""

    file: str
    group: int
    group_first: int
    first: int
    stop: int


def without_secrets(address: str) -> str:
    """The address, which is logged and published: it may not hold a password, nor a key for one.

    Raises:
        ValueError: it does. The message does not repeat it.
    """
    if holds_secret(address):
        raise ValueError(
            f"the address at {address.partition('://')[0]}:// holds a user and password, or a key, and addresses are logged; give them in "
            f"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or as the object store's own variables or files"
        )
    return address


def possible(path: str) -> str:
    """The path or address, if there could be something of that name, and no secret in it.

    Raises:
        ValueError: there could not: a name is too long, or holds what no name may.
    """
    if "://" in path:
        return without_secrets(path)
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except (OSError, ValueError) as error:
        shown = repr(path if len(path) <= LONGEST_SHOWN else f"{path[:LONGEST_SHOWN]}...")
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{shown} cannot be a path ({reason}); give another") from None
    return path


def locate(address: str) -> Place:
    """Where an address is: a local path, or a URI such as s3://bucket/folder or gs://bucket/folder.

    Raises:
        ValueError: pyarrow does not know the scheme, or cannot reach it.
    """
    possible(address)
    if "://" not in address:
        return Place(pyarrow.fs.LocalFileSystem(), address, address)
    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(address)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{address} is no address that pyarrow can reach ({error}); give a path, s3://, gs:// or file://") from None
    return Place(filesystem, path, address)


def parquet_files(place: Place) -> list[Stamp]:
    """The Parquet file at `place`, or those at any depth below it, in the order of their paths.

    Raises:
        ValueError: nothing there, or the address cannot be reached.
    """
    try:
        info = place.filesystem.get_file_info(place.path)
        if info.type == pyarrow.fs.FileType.Directory:
            below = place.filesystem.get_file_info(pyarrow.fs.FileSelector(place.path, recursive=True))
            found = [item for item in below if item.type == pyarrow.fs.FileType.File and item.path.endswith(".parquet")]
        else:
            found = [info] if info.type == pyarrow.fs.FileType.File else []
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"data.path: {place.address} cannot be reached ({error})") from None
    if info.type == pyarrow.fs.FileType.NotFound:
        raise ValueError(f"data.path: nothing at {place.address}; give a Parquet file, or a folder that holds some")
    if not found:
        raise ValueError(f"data.path: the folder {place.address} holds no *.parquet file")
    found.sort(key=lambda item: item.path.split("/"))
    return [Stamp(item.path, item.size, item.mtime_ns or 0) for item in found]


def find_columns(place: Place, files: list[Stamp], image: str, label: str | None) -> tuple[Columns, list[Any]]:
    """The columns, checked in every file's schema before any image is decoded; and the files' metadata.

    Raises:
        ValueError: a file that is no Parquet, columns that are not there or of another kind, no rows.
    """
    found, metadata = Columns(image, False, label), []
    for file, _, _ in files:
        try:
            with place.filesystem.open_input_file(file) as stream:
                parquet = pq.ParquetFile(stream)
                metadata.append(parquet.metadata)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"data.path: {file} is not a readable Parquet file ({error})") from None
        columns = _columns(file, parquet.schema_arrow, image, label)
        if file != files[0].path and columns != found:
            raise ValueError(f"data.path: {file} and {files[0].path} have different image or label columns")
        found = columns
    if sum(one.num_rows for one in metadata) == 0:
        raise ValueError(f"data.path: {place.address} holds no rows")
    return found, metadata


def _columns(file: str, schema: Any, image: str, label: str | None) -> Columns:
    if image not in schema.names:
        raise ValueError(f"data.image_column: {file} has no column '{image}'; its columns: {', '.join(schema.names)}")
    kind = schema.field(image).type
    nested = pa.types.is_struct(kind)
    if nested and "bytes" in {field.name for field in kind}:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        prepared = pa.types.is_fixed_size_binary(kind)
        hint = "; it is part of a prepared data set: give the folder that holds its dataset.json" if prepared else ""
        raise ValueError(f"data.image_column: '{image}' in {file} is {kind}; it must hold encoded bytes, or struct<bytes, path>{hint}")
    if label is not None and label not in schema.names:
        raise ValueError(f"data.label_column: {file} has no column '{label}'; its columns: {', '.join(schema.names)}")
    labelled = label or ("label" if "label" in schema.names else None)
    if labelled and not pa.types.is_integer(schema.field(labelled).type):
        raise ValueError(f"data.label_column: '{labelled}' in {file} is {schema.field(labelled).type}; labels must be integers")
    return Columns(image, nested, labelled)


def class_names(metadata: Any, label: str | None) -> list[str]:
    """The names that Hugging Face's schema metadata give the classes of a column; empty where there are none, or they are no such JSON."""
    stored = (metadata.schema.to_arrow_schema().metadata or {}).get(b"huggingface")
    try:
        names = json.loads(stored or b"null")["info"]["features"][label]["names"]
    except (TypeError, ValueError, LookupError, RecursionError):
        return []
    return list(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def require_labels(place: Place, files: list[Stamp], metadata: list[Any], label: str | None) -> None:
    """Check the bounds of the labels by the statistics that files have of them, before any image is decoded; `read_rows` checks all.

    Raises:
        ValueError: one is too large.
    """
    of_file = {file.path: one for file, one in zip(files, metadata, strict=True)}
    for part in row_groups(files, metadata):
        group = of_file[part.file].row_group(part.group)
        columns = (group.column(number) for number in range(group.num_columns))
        known = next((column.statistics for column in columns if column.path_in_schema == label), None)
        if known is not None and known.has_min_max and known.max >= LARGEST_CLASSES:
            with place.filesystem.open_input_file(part.file) as stream:
                labels = pq.ParquetFile(stream).read_row_group(part.group, columns=[label]).column(0).to_pylist()
            _require_small(labels, part.file.rpartition("/")[2], part.first)


def _require_small(labels: list[int | None], file: str, first: int) -> None:
    for number, label in enumerate(labels, first):
        if label is not None and label >= LARGEST_CLASSES:
            raise ValueError(
                f"{file} row {number}: label {label}, and labels are numbers of classes, from 0 to at most {LARGEST_CLASSES - 1}; "
                f"number the classes 0, 1, ..., or name another column"
            )


def row_groups(files: list[Stamp], metadata: list[Any]) -> list[Part]:
    """Every row group of every file, whole; without empty ones."""
    parts = []
    for file, one in zip(files, metadata, strict=True):
        first = 0
        for group in range(one.num_row_groups):
            stop = first + one.row_group(group).num_rows
            if stop > first:
                parts.append(Part(file.path, group, first, first, stop))
            first = stop
    return parts


class Reading:
    """A row group of a file that is open, read from its start once: parts of it are asked for in their order."""

    def __init__(self, filesystem: Any, part: Part, columns: Columns) -> None:
        self._file, self._columns = part.file.rpartition("/")[2], columns
        self._stream = filesystem.open_input_file(part.file)
        names = [columns.image] + ([columns.label] if columns.label else [])
        self._batches = pq.ParquetFile(self._stream).iter_batches(ROWS_AT_ONCE, row_groups=[part.group], columns=names)
        self._batch: Any = None
        self.first = part.group_first  # the row that comes next, or one of the same batch before it

    def rows(self, part: Part) -> Iterator[list[Row]]:
        """The rows of a part, in chunks.

        Raises:
            ValueError: a label is too large, or rows are missing.
        """
        while self.first < part.stop:
            if self._batch is None:
                self._batch = next(self._batches, None)
                if self._batch is None:
                    raise ValueError(f"{self._file} has fewer rows than it says; it is damaged")
            length = len(self._batch)
            start, stop = max(part.first - self.first, 0), min(part.stop - self.first, length)
            if start < stop:
                yield _chunk(self._batch.slice(start, stop - start), self._columns, self._file, self.first + start)
            if self.first + length > part.stop:
                return  # the rest belongs to another part
            self.first, self._batch = self.first + length, None

    def close(self) -> None:
        """Let the file go."""
        self._stream.close()


def read_rows(filesystem: Any, part: Part, columns: Columns) -> Iterator[list[Row]]:
    """The rows of a part, in chunks.

    Raises:
        ValueError: a label is too large.
    """
    with closing(Reading(filesystem, part, columns)) as reading:
        yield from reading.rows(part)


def _chunk(batch: Any, columns: Columns, file: str, number: int) -> list[Row]:
    cells: list[Any] = batch.column(columns.image).to_pylist()
    if columns.nested:
        cells = [cell and cell["bytes"] for cell in cells]
    labels = batch.column(columns.label).to_pylist() if columns.label else [-1] * len(cells)
    if columns.label:
        _require_small(labels, file, number)
    return [Row(f"{file} row {number + i}", *row) for i, row in enumerate(zip(cells, labels, strict=True))]
