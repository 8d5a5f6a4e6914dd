"""Checkpoint folders of a run, `<storage>/<run id>/checkpoint_<images seen>`: named, found, kept and thinned out."""

import json
import re
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
DONOR = re.compile(r"[0-9A-Za-z][\w-]*/(?:checkpoint|best)_[0-9]+")
LARGEST_NOTE = 1 << 20  # bytes of ADOPTED
ADOPTED, PENDING, RAY_TRAIN_LIST = "adopted.json", "undelivered.json", "checkpoint_manager_snapshot.json"


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
    with latest_at(filesystem, f"{path}/{run_id}", BEST if best else PREFIX) as found:
        if found is None:
            raise ValueError(f"run {run_id} has no {'best ' if best else ''}checkpoint in {storage_path}")
        yield found


@contextmanager
def latest_at(filesystem: Any, folder: str, prefix: str = PREFIX) -> Iterator[Path | None]:
    """The newest complete checkpoint in a run's folder of any file system, on this machine while the block runs."""
    name = _latest_name(filesystem, folder, prefix)
    if name is None:
        yield None
    elif isinstance(filesystem, pyarrow.fs.LocalFileSystem):
        yield Path(folder) / name
    else:
        with tempfile.TemporaryDirectory(prefix="raygan-") as copy:
            pyarrow.fs.copy_files(f"{folder}/{name}", copy, source_filesystem=filesystem)
            yield Path(copy)


def keep_latest(folder: Path, count: int) -> None:
    """Delete all but the newest `count` checkpoints of a run's folder."""
    for path in sorted(folder.glob(f"{PREFIX}*"))[:-count]:
        shutil.rmtree(path)


def keep_best(filesystem: Any, run_path: str, source: Path, images_seen: int) -> None:
    """Copy the checkpoint in `source` to the run's folder as its best, and then delete the one that was best before.

    `filesystem` is pyarrow's.
    """
    final = f"{BEST}{images_seen:012d}"
    _put(filesystem, f"{run_path}/{final}", source)
    for entry in filesystem.get_file_info(pyarrow.fs.FileSelector(run_path)):
        if entry.base_name.startswith(BEST) and entry.base_name != final:
            filesystem.delete_dir(entry.path)


def put(storage_path: str, run_id: str, name: str, source: Path, *, keep: int, best_at: int | None = None) -> None:
    """Copy the checkpoint in `source` to the run's folder, also as its best if `best_at` is given; keep only the newest `keep`."""
    filesystem, path = _filesystem(storage_path)
    folder = f"{path}/{run_id}"
    if best_at is not None:
        keep_best(filesystem, folder, source, best_at)
    _put(filesystem, f"{folder}/{name}", source)
    for old in sorted(_names(filesystem, folder, PREFIX))[:-keep]:
        filesystem.delete_dir(f"{folder}/{old}")


def has(storage_path: str, run_id: str, name: str) -> bool:
    """Whether the run has this checkpoint, complete."""
    filesystem, path = _filesystem(storage_path)
    return _is_complete(filesystem, f"{path}/{run_id}/{name}")


def _is_complete(filesystem: Any, folder: str) -> bool:
    return bool(filesystem.get_file_info(f"{folder}/{SUMS}").type == pyarrow.fs.FileType.File)


def adopt(storage_path: str, run_id: str, donor: str, point: dict[str, Any]) -> None:
    """Make another run's checkpoint, `donor` (`<run id>/<name>`), the only one of this run; a second call does nothing.

    ADOPTED says which one it is, with which settings the run goes on, and whether the copy is complete: `finish_adoption` goes on where a
    process died half-way.

    Raises:
        ValueError: the donor's checkpoint is gone.
    """
    filesystem, path = _filesystem(storage_path)
    before = adopted(storage_path, run_id)
    if before is not None and before["donor"] == donor and before["complete"]:
        return
    if not _is_complete(filesystem, f"{path}/{donor}"):
        raise ValueError(f"ray.checkpoints_to_keep: the checkpoint {donor} is gone from {storage_path}; keep more of them")
    filesystem.create_dir(f"{path}/{run_id}", recursive=True)
    _note_adopted(filesystem, f"{path}/{run_id}", {"donor": donor, "point": point, "complete": False})
    finish_adoption(storage_path, run_id)


def finish_adoption(storage_path: str, run_id: str) -> None:
    """Complete what `adopt` began, if it did. Ray Train's list of the run's own checkpoints goes too, or it would resume from these."""
    begun = adopted(storage_path, run_id)
    if begun is None or begun["complete"]:
        return
    filesystem, path = _filesystem(storage_path)
    folder, donor = f"{path}/{run_id}", begun["donor"]
    for name in _names(filesystem, folder, PREFIX):
        filesystem.delete_dir(f"{folder}/{name}")
    if filesystem.get_file_info(f"{folder}/{RAY_TRAIN_LIST}").type == pyarrow.fs.FileType.File:
        filesystem.delete_file(f"{folder}/{RAY_TRAIN_LIST}")
    with tempfile.TemporaryDirectory(prefix="raygan-") as copy:
        pyarrow.fs.copy_files(f"{path}/{donor}", copy, source_filesystem=filesystem)
        (Path(copy) / PENDING).write_text("[]")  # records that wait belong to the donor's run
        _put(filesystem, f"{folder}/{donor.rpartition('/')[2]}", Path(copy))
    _note_adopted(filesystem, folder, {**begun, "complete": True})


def adopted(storage_path: str, run_id: str) -> dict[str, Any] | None:
    """What `adopt` has noted of the run: `donor`, `point` and `complete`; None where it has taken over nothing."""
    filesystem, path = _filesystem(storage_path)
    place = f"{path}/{run_id}/{ADOPTED}"
    if filesystem.get_file_info(place).type != pyarrow.fs.FileType.File:
        return None
    with filesystem.open_input_stream(place) as file:
        return _checked_note(file.read(LARGEST_NOTE), place)


def _checked_note(content: bytes, place: str) -> dict[str, Any]:
    """What ADOPTED holds: whoever can write to the storage must not choose what is copied, or deleted, elsewhere.

    Raises:
        ValueError: it is not what `adopt` writes.
    """
    try:
        note: dict[str, Any] = json.loads(content)
        fine = note.keys() == {"donor", "point", "complete"} and DONOR.fullmatch(note["donor"]) and isinstance(note["point"], dict)
    except (ValueError, TypeError, AttributeError, RecursionError):
        fine = None
    if not fine:
        raise ValueError(f"{place} is damaged: it names no checkpoint as <run id>/<name>; delete it, and the run goes on from its own")
    return note


def _note_adopted(filesystem: Any, folder: str, note: dict[str, Any]) -> None:
    with filesystem.open_output_stream(f"{folder}/{ADOPTED}.new") as file:
        file.write(json.dumps(note).encode())
    filesystem.move(f"{folder}/{ADOPTED}.new", f"{folder}/{ADOPTED}")


def _put(filesystem: Any, folder: str, source: Path) -> None:
    """Copy a checkpoint's files. Object stores cannot move folders, so the checksum file goes last: with it the copy is complete."""
    filesystem.create_dir(folder, recursive=True)
    for file in sorted(source.iterdir(), key=lambda file: file.name == SUMS):
        pyarrow.fs.copy_files(str(file), f"{folder}/{file.name}", destination_filesystem=filesystem)


def _names(filesystem: Any, folder: str, prefix: str) -> list[str]:
    entries = filesystem.get_file_info(pyarrow.fs.FileSelector(folder, allow_not_found=True))
    folders = [entry.base_name for entry in entries if entry.type == pyarrow.fs.FileType.Directory]
    return [name for name in folders if name.startswith(prefix)]


def has_checkpoint(storage_path: str, run_id: str) -> bool:
    """Whether the storage holds a complete checkpoint of the run."""
    filesystem, path = _filesystem(storage_path)
    return _latest_name(filesystem, f"{path}/{run_id}") is not None


def _latest_name(filesystem: Any, folder: str, prefix: str = PREFIX) -> str | None:
    for name in sorted(_names(filesystem, folder, prefix), reverse=True):
        if _is_complete(filesystem, f"{folder}/{name}"):
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


@contextmanager
def probe(storage_path: str) -> Iterator[str]:
    """A small file in the storage while the block lasts; returns its name, for `sees`."""
    filesystem, path = _filesystem(storage_path)
    name = f".raygan-{uuid4().hex}"
    with filesystem.open_output_stream(f"{path}/{name}") as file:
        file.write(b"seen")
    try:
        yield name
    finally:
        filesystem.delete_file(f"{path}/{name}")


def sees(storage_path: str, name: str) -> bool:
    """Whether the file of `probe` can be read from here."""
    try:
        filesystem, path = _filesystem(storage_path)
        return bool(filesystem.get_file_info(f"{path}/{name}").type == pyarrow.fs.FileType.File)
    except (OSError, pyarrow.ArrowException):
        return False


def _filesystem(storage_path: str) -> tuple[Any, str]:
    if "://" not in storage_path:
        return pyarrow.fs.LocalFileSystem(), storage_path
    filesystem, path = pyarrow.fs.FileSystem.from_uri(storage_path)
    return filesystem, path
