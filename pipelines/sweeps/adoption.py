"""A trial that goes on from another one's checkpoint, as population-based training has it."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.fs

from gan_core import checkpoint
from gan_core.checkpoint import STATE, DamagedError
from pipelines import shelf, storage
from pipelines.storage import PENDING, RAY_TRAIN_LIST, Place

DONOR = re.compile(r"[0-9A-Za-z][\w-]*/(?:checkpoint|best)_[0-9]+")
ADOPTED, LARGEST_NOTE = "adopted.json", 1 << 20  # bytes


def adopt(storage_path: str, run_id: str, donor: str, point: dict[str, Any]) -> None:
    """Make another run's checkpoint, `donor` (`<run id>/<name>`), the only one of this run; a second call does nothing.

    ADOPTED says which one it is, with which settings the run goes on, and whether the copy is complete: `finish_adoption` goes on where a
    process died half-way.

    Raises:
        ValueError: the donor's checkpoint is gone or damaged; this run has its own.
    """
    before = adopted(storage_path, run_id)
    if before is not None and before["donor"] == donor and before["complete"]:
        return
    if not storage.has(storage_path, *donor.split("/")):
        raise ValueError(_gone(storage_path, donor))
    _note(storage.make_folder(storage_path, run_id), {"donor": donor, "point": point, "complete": False})
    finish_adoption(storage_path, run_id)


def finish_adoption(storage_path: str, run_id: str) -> None:
    """Complete what `adopt` began, if it did. Ray Train's list of the run's own checkpoints goes too, or it would resume from these.

    Raises:
        ValueError: the donor's checkpoint is gone or damaged; this run has its own.
    """
    begun = adopted(storage_path, run_id)
    if begun is None or begun["complete"]:
        return
    mine, donor = storage.make_folder(storage_path, run_id), begun["donor"]
    name = donor.rpartition("/")[2]
    with tempfile.TemporaryDirectory(prefix="raygan-") as folder:
        copy = Path(folder)
        try:
            pyarrow.fs.copy_files(storage.place_of(storage_path, donor).folder, folder, source_filesystem=mine.filesystem)
            images_seen = checkpoint.verify(copy)
        except (DamagedError, FileNotFoundError):
            mine.filesystem.delete_file(f"{mine.folder}/{ADOPTED}")
            raise ValueError(_gone(storage_path, donor)) from None
        (copy / PENDING).write_text("[]")  # records that wait belong to the donor's run
        checkpoint.seal(copy, (STATE, PENDING), images_seen)
        shelf.put(mine, name, copy)  # before the run's own ones go
    for other in storage.newest_first(mine):
        if other != name:
            mine.filesystem.delete_dir(f"{mine.folder}/{other}")
    if mine.filesystem.get_file_info(f"{mine.folder}/{RAY_TRAIN_LIST}").type == pyarrow.fs.FileType.File:
        mine.filesystem.delete_file(f"{mine.folder}/{RAY_TRAIN_LIST}")
    _note(mine, {**begun, "complete": True})


def _gone(storage_path: str, donor: str) -> str:
    return f"ray.checkpoints_to_keep: the checkpoint {donor} is gone from {storage_path}, or damaged; keep more of them"


def adopted(storage_path: str, run_id: str) -> dict[str, Any] | None:
    """What `adopt` has noted of the run: `donor`, `point` and `complete`; None where it has taken over nothing."""
    mine = storage.place_of(storage_path, run_id)
    note = f"{mine.folder}/{ADOPTED}"
    if mine.filesystem.get_file_info(note).type != pyarrow.fs.FileType.File:
        return None
    with mine.filesystem.open_input_stream(note) as file:
        return _checked(file.read(LARGEST_NOTE), note)


def _checked(content: bytes, place: str) -> dict[str, Any]:
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


def _note(mine: Place, note: dict[str, Any]) -> None:
    with mine.filesystem.open_output_stream(f"{mine.folder}/{ADOPTED}.new") as file:
        file.write(json.dumps(note).encode())
    mine.filesystem.move(f"{mine.folder}/{ADOPTED}.new", f"{mine.folder}/{ADOPTED}")
