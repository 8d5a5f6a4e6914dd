"""Where images go: PNG files in a folder, or rows of a Parquet file; nothing is there under its final name until it is whole."""

import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from PIL import Image

ROWS_PER_GROUP = 1024
PARQUET = ".parquet"


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
    """Check that images can be written to `out`.

    Raises:
        ValueError: it is neither a folder nor a Parquet file, or holds something already.
    """
    if out.endswith(PARQUET):
        return
    if "://" in out:
        raise ValueError(f"--out: to an object store images go as one Parquet file, given {out}; let it end in {PARQUET}")
    if Path(out).suffix and not Path(out).is_dir():
        raise ValueError(f"--out: give a folder, for PNG files, or a file that ends in {PARQUET}, given {out}")
    require_no_folder("--out", Path(out))


def require_no_folder(option: str, path: Path) -> None:
    """Check that a new folder can be made at `path`.

    Raises:
        ValueError: something is there.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{option}: {path} is there already, and not empty; give another name")


@contextmanager
def opened(out: str, form: pa.Schema) -> Iterator[Output]:
    """The output at `out`, which appears under that name when the block ends well, and else leaves nothing.

    Raises:
        ValueError: it cannot be written.
    """
    try:
        with _parquet(out, form) if out.endswith(PARQUET) else _folder(Path(out)) as output:
            yield output
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"--out: {out} cannot be written ({error})") from None


class _Rows:
    """A Parquet file in row groups of equal size, however many images come at once."""

    def __init__(self, writer: pq.ParquetWriter, form: pa.Schema) -> None:
        self.writer, self.form = writer, form
        self.waiting: list[pa.Table] = []

    def write(self, table: pa.Table) -> None:
        self.waiting.append(table.cast(self.form))
        if sum(map(len, self.waiting)) >= ROWS_PER_GROUP:
            self.flush(everything=False)

    def flush(self, *, everything: bool) -> None:
        """Write the whole row groups that wait, or everything."""
        table = pa.concat_tables(self.waiting).combine_chunks() if self.waiting else self.form.empty_table()
        whole = len(table) if everything else len(table) // ROWS_PER_GROUP * ROWS_PER_GROUP
        for first in range(0, whole, ROWS_PER_GROUP):
            self.writer.write_table(table.slice(first, min(ROWS_PER_GROUP, whole - first)))
        self.waiting = [table.slice(whole)] if whole < len(table) else []


@contextmanager
def _parquet(out: str, form: pa.Schema) -> Iterator[Output]:
    filesystem, path = pyarrow.fs.FileSystem.from_uri(out if "://" in out else os.path.abspath(out))
    filesystem.create_dir(path.rpartition("/")[0], recursive=True)
    temporary = f"{path}.writing-{uuid4().hex[:8]}"
    try:
        with filesystem.open_output_stream(temporary) as stream, pq.ParquetWriter(stream, form, compression="zstd") as writer:
            rows = _Rows(writer, form)
            yield rows
            rows.flush(everything=True)
        filesystem.move(temporary, path)
    except BaseException:
        if filesystem.get_file_info(temporary).type == pyarrow.fs.FileType.File:
            filesystem.delete_file(temporary)
        raise


class _Files:
    """A folder of PNG files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, table: pa.Table) -> None:
        for image in table.column("image").to_pylist():
            (self.folder / image["path"]).write_bytes(image["bytes"])


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which appears as `path` when the block ends well, and else is gone."""
    temporary = path.with_name(f"{path.name}.writing-{uuid4().hex[:8]}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def _folder(path: Path) -> Iterator[Output]:
    with whole_folder(path) as temporary:
        yield _Files(temporary)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears when it is complete.

    Raises:
        ValueError: it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.writing-{uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ValueError(f"{path} cannot be written ({error})") from None
