"""Checkpoint folders of a run, `<storage>/<run id>/checkpoint_<images seen>`: named, found, kept and thinned out."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow.fs

from gan_core.checkpoint import SUMS

PREFIX, BEST = "checkpoint_", "best_"


def checkpoint_name(images_seen: int) -> str:
    """A name that sorts by the clock."""
    return f"{PREFIX}{images_seen:012d}"


def latest_in(folder: Path) -> Path | None:
    """The newest complete checkpoint in a run's folder on this machine."""
    name = _latest_name(pyarrow.fs.LocalFileSystem(), str(folder))
    return None if name is None else folder / name


@contextmanager
def latest(storage_path: str, run_id: str, *, best: bool = False) -> Iterator[Path]:
    """The newest complete checkpoint of a run, or its best, on this machine while the block runs; object stores are copied from.

    Raises:
        ValueError: there is none.
    """
    filesystem, path = _filesystem(storage_path)
    folder = f"{path}/{run_id}"
    name = _latest_name(filesystem, folder, BEST if best else PREFIX)
    if name is None:
        raise ValueError(f"run {run_id} has no {'best ' if best else ''}checkpoint in {storage_path}")
    if isinstance(filesystem, pyarrow.fs.LocalFileSystem):
        yield Path(folder) / name
        return
    with tempfile.TemporaryDirectory(prefix="raygan-") as copy:
        pyarrow.fs.copy_files(f"{folder}/{name}", copy, source_filesystem=filesystem)
        yield Path(copy)


def keep_latest(folder: Path, count: int) -> None:
    """Delete all but the newest `count` checkpoints of a run's folder."""
    for path in sorted(folder.glob(f"{PREFIX}*"))[:-count]:
        shutil.rmtree(path)


def keep_best(filesystem: Any, run_path: str, source: Path, images_seen: int) -> None:
    """Copy the checkpoint in `source` to the run's folder as its best, and then delete the one that was best before.

    `filesystem` is pyarrow's. Object stores cannot move folders, so the checksum file is copied last: with it the copy is complete.
    """
    final = f"{BEST}{images_seen:012d}"
    filesystem.create_dir(f"{run_path}/{final}", recursive=True)
    for file in sorted(source.iterdir(), key=lambda file: file.name == SUMS):
        pyarrow.fs.copy_files(str(file), f"{run_path}/{final}/{file.name}", destination_filesystem=filesystem)
    for entry in filesystem.get_file_info(pyarrow.fs.FileSelector(run_path)):
        if entry.base_name.startswith(BEST) and entry.base_name != final:
            filesystem.delete_dir(entry.path)


def has_checkpoint(storage_path: str, run_id: str) -> bool:
    """Whether the storage holds a complete checkpoint of the run."""
    filesystem, path = _filesystem(storage_path)
    return _latest_name(filesystem, f"{path}/{run_id}") is not None


def _latest_name(filesystem: Any, folder: str, prefix: str = PREFIX) -> str | None:
    names = [info.base_name for info in filesystem.get_file_info(pyarrow.fs.FileSelector(folder, allow_not_found=True))]
    name: str
    for name in sorted((name for name in names if name.startswith(prefix)), reverse=True):
        if filesystem.get_file_info(f"{folder}/{name}/{SUMS}").type == pyarrow.fs.FileType.File:
            return name
    return None


def require_writable(storage_path: str) -> None:
    """Check, before anything starts, that the storage takes files.

    Raises:
        ValueError: it does not.
    """
    try:
        filesystem, path = _filesystem(storage_path)
        filesystem.create_dir(path, recursive=True)
        probe = f"{path}/.raygan-{uuid4().hex}"
        with filesystem.open_output_stream(probe) as file:
            file.write(b"writable")
        filesystem.delete_file(probe)
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"ray.storage_path: cannot write to {storage_path} ({error}); set it to a folder that can be written") from None


def _filesystem(storage_path: str) -> tuple[Any, str]:
    if "://" not in storage_path:
        return pyarrow.fs.LocalFileSystem(), storage_path
    filesystem, path = pyarrow.fs.FileSystem.from_uri(storage_path)
    return filesystem, path
