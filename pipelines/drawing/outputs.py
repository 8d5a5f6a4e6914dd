"""Where images go: PNG files in a folder, or rows of a Parquet file; nothing is there under its final name until it is whole."""

import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from PIL import Image

from gan_core.data import _tables
from gan_core.data._tables import Place

ROWS_PER_GROUP = 1024
PARQUET = ".parquet"
ADDRESS_TYPO = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/(?!/)")


class Output(Protocol):
    """Takes tables of images, in the order of their seeds; see `schema`."""

    def write(self, table: pa.Table) -> None:
        """The next images."""
        ...


def png(pixels: np.ndarray) -> bytes:
    """Grey levels [height, width, channels] as a PNG file; 1 channel is grey, 3 are colours."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def schema(*, labelled: bool, class_names: tuple[str, ...] | None, facts: Mapping[str, Any]) -> pa.Schema:
    """Columns image struct<bytes, path>, label where there are classes, and seed; `facts` say where the images come from.

    The other metadata are those by which Hugging Face's `datasets` shows images as images.
    """
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = [("image", image), *([("label", pa.int64())] if labelled else []), ("seed", pa.int64())]
    kinds: dict[str, Any] = {"image": {"_type": "Image"}, "seed": {"dtype": "int64", "_type": "Value"}}
    if labelled:
        named = {"names": list(class_names), "_type": "ClassLabel"} if class_names else {"dtype": "int64", "_type": "Value"}
        kinds = {"image": kinds["image"], "label": named, "seed": kinds["seed"]}
    return pa.schema(columns, {"raygan": json.dumps(facts), "huggingface": json.dumps({"info": {"features": kinds}})})


def require_free(out: str) -> None:
    """Check that images can be written to `out`, before any is drawn.

    Raises:
        ValueError: it is neither a folder nor a Parquet file, holds something already, or cannot be written.
    """
    if out.endswith(PARQUET):
        _require_free_file(out)
        return
    if "://" in out:
        raise ValueError(f"--out: to an object store images go as one Parquet file, given {out}; let it end in {PARQUET}")
    if Path(out).suffix and not Path(out).is_dir():
        raise ValueError(f"--out: give a folder, for PNG files, or a file that ends in {PARQUET}, given {out}")
    require_no_folder("--out", out)


def _require_free_file(out: str) -> None:
    if "://" not in out:
        require_local("--out", out)
    filesystem, path, _ = _locate(out)
    try:
        there = filesystem.get_file_info(path).type != pyarrow.fs.FileType.NotFound
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"--out: {out} cannot be reached ({error})") from None
    if there:
        raise ValueError(f"--out: {out} is there already; give another name, or remove it")
    if isinstance(filesystem, pyarrow.fs.LocalFileSystem):
        _require_writable("--out", Path(path))


def require_local(option: str, place: str) -> None:
    """Check that `place` is no address, which a path in this machine's file system would silently be made of.

    Raises:
        ValueError: it is one, or looks like one with a slash too few.
    """
    if "://" in place:
        raise ValueError(f"{option}: {place} is an address, and only the images of --num go to one, as --out FILE{PARQUET}; give a path")
    if ADDRESS_TYPO.match(place):
        raise ValueError(f"{option}: {place} is no address; write {place.replace(':/', '://', 1)}, or ./{place} for a path")


def require_no_folder(option: str, place: str) -> None:
    """Check that a new folder can be made at `place`.

    Raises:
        ValueError: something is there, it is an address, or cannot be written.
    """
    require_local(option, place)
    path = _resolved(place)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{option}: {place} is there already, and not empty; give another name")
    if path == Path.cwd() or path.is_mount():
        raise ValueError(f"{option}: {place} is in use, and cannot be replaced; give the name of a new folder in it")
    _require_writable(option, path)


def require_file(option: str, place: str) -> None:
    """Check that a picture can be written to `place`.

    Raises:
        ValueError: it is an address, or a folder, or cannot be written.
    """
    require_local(option, place)
    path = _resolved(place)
    if path.is_dir():
        raise ValueError(f"{option}: {place} is a folder; give the name of a file")
    _require_writable(option, path)


def _resolved(place: str | Path) -> Path:
    """What links lead to: names are given by renaming, which would replace the link."""
    return Path(_tables.possible(os.path.realpath(place)))


def _require_writable(option: str, path: Path) -> None:
    """Check that something can be made at `path`, and the folders above it that are missing."""
    above = next(parent for parent in path.parents if parent.exists())
    if not above.is_dir():
        raise ValueError(f"{option}: {path} cannot be made, for {above} is a file; give another place")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"{option}: {path} cannot be made, for {above} cannot be written; give another place")


def _locate(out: str) -> Place:
    return _tables.locate(out if "://" in out else str(_resolved(out)))


@contextmanager
def _writing(option: str, out: object) -> Iterator[None]:
    """Around what writes, and nothing else: its errors are the user's, who chose the place."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{option}: {out} cannot be written ({error})") from None


@contextmanager
def _naming(option: str, out: object, temporary: object) -> Iterator[None]:
    """Around the renaming at the end: what was made is not lost with its name."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{option}: {out} cannot be made ({error}); everything is complete in {temporary}") from None


@contextmanager
def opened(out: str, form: pa.Schema) -> Iterator[Output]:
    """The output at `out`, which appears under that name when the block ends well, and else leaves nothing.

    Raises:
        ValueError: it cannot be written. Other errors of the block stay what they are.
    """
    with _parquet(out, form) if out.endswith(PARQUET) else _folder(Path(out)) as output:
        yield output


class _Rows:
    """A Parquet file in row groups of equal size, however many images come at once."""

    def __init__(self, out: str, writer: pq.ParquetWriter, form: pa.Schema) -> None:
        self.out, self.writer, self.form = out, writer, form
        self.waiting: list[pa.Table] = []

    def write(self, table: pa.Table) -> None:
        self.waiting.append(table.cast(self.form))
        if sum(map(len, self.waiting)) >= ROWS_PER_GROUP:
            self.flush(everything=False)

    def flush(self, *, everything: bool) -> None:
        """Write the whole row groups that wait, or everything."""
        table = pa.concat_tables(self.waiting).combine_chunks() if self.waiting else self.form.empty_table()
        whole = len(table) if everything else len(table) // ROWS_PER_GROUP * ROWS_PER_GROUP
        with _writing("--out", self.out):
            for first in range(0, whole, ROWS_PER_GROUP):
                self.writer.write_table(table.slice(first, min(ROWS_PER_GROUP, whole - first)))
        self.waiting = [table.slice(whole)] if whole < len(table) else []


@contextmanager
def _parquet(out: str, form: pa.Schema) -> Iterator[Output]:
    """Under another name until it is whole; in an object store, where renaming is copying, under its own, which is seen once closed."""
    filesystem, path, _ = _locate(out)
    local = isinstance(filesystem, pyarrow.fs.LocalFileSystem)
    written = f"{path}.writing-{uuid4().hex[:8]}" if local else path
    with _writing("--out", out):
        if local:
            filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        stream = filesystem.open_output_stream(written)
    writer = None
    try:
        with _writing("--out", out):
            writer = pq.ParquetWriter(stream, form, compression="zstd")
        rows = _Rows(out, writer, form)
        yield rows
        rows.flush(everything=True)
        with _writing("--out", out):
            writer.close()
            stream.close()
    except BaseException:
        for step in (writer.close if writer else stream.close, stream.close, lambda: filesystem.delete_file(written)):
            with suppress(OSError, ValueError, pa.ArrowException):  # the error that brought us here matters more
                step()
        raise
    if local:
        with _naming("--out", out, written):
            filesystem.move(written, path)


class _Files:
    """A folder of PNG files."""

    def __init__(self, out: Path, folder: Path) -> None:
        self.out, self.folder = out, folder

    def write(self, table: pa.Table) -> None:
        with _writing("--out", self.out):
            for image in table.column("image").to_pylist():
                (self.folder / image["path"]).write_bytes(image["bytes"])


@contextmanager
def whole_folder(option: str, path: Path) -> Iterator[Path]:
    """A folder to fill, which appears as `path` when the block ends well, and else is gone.

    Raises:
        ValueError: it cannot be made.
    """
    place = _resolved(path)
    temporary = place.with_name(f"{place.name}.writing-{uuid4().hex[:8]}")
    with _writing(option, path):
        temporary.mkdir(parents=True)
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    with _naming(option, path, temporary):
        temporary.replace(place)


@contextmanager
def _folder(path: Path) -> Iterator[Output]:
    with whole_folder("--out", path) as temporary:
        yield _Files(path, temporary)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears when it is complete.

    Raises:
        ValueError: it cannot be written.
    """
    place = _resolved(path)
    temporary = place.with_name(f"{place.name}.writing-{uuid4().hex[:8]}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(place)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ValueError(f"{path} cannot be written ({error})") from None
