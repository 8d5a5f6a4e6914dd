"""A run's folder in the storage, as the one process that writes there uses it: checkpoints are put there whole or not at all.

A storage that is full or gone is waited for. On a mounted file system a checkpoint appears under its name when all of it is on the disk;
in an object store, which cannot move folders, its checksum file comes last.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow
import pyarrow.fs

from gan_core import checkpoint
from pipelines import storage
from pipelines.storage import BEST, INTERIM, PREFIX, Found, Place

DAMAGED, FACTS = "damaged_", "facts.json"
WRITING = ".writing-"
# A rank that does nothing for 5 seconds may be taken for one that hangs: that is the least ray.stall_timeout_seconds.
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 4.0


class StorageError(RuntimeError):
    """The storage did not take a checkpoint in the time allowed."""


class Shelf:
    """Where a run's checkpoints are kept: the last `keep` scheduled ones (None: somebody else thins them out), and an interim one while it
    is the newest. `say` tells the user that the storage went away, and that it came back.
    """

    def __init__(self, place: Place, *, keep: int | None, timeout_seconds: float, say: Callable[[str], None]) -> None:
        self.place = place
        self._keep, self._timeout_seconds, self._say = keep, timeout_seconds, say

    def prepare(self) -> None:
        """Make the folder, and remove what a process left that was killed while it wrote."""
        self.place.filesystem.create_dir(self.place.folder, recursive=True)
        if self.place.local is not None:
            for rest in self.place.local.glob(f"{WRITING}*"):
                shutil.rmtree(rest, ignore_errors=True)

    @contextmanager
    def newest(self) -> Iterator[Found]:
        """`storage.newest_sound`; those that were passed over are set aside, so that nobody takes them for good ones again.

        Raises:
            DamagedError: there are checkpoints, and none is sound. They are left as they are.
        """
        with storage.newest_sound(self.place) as found:
            for name in found.damaged:
                set_aside(self.place, name)
            yield found

    def save(self, name: str, fill: Callable[[Path], None], *, best_at: int | None = None) -> None:
        """Keep the checkpoint that `fill` writes into a folder, also as the best where `best_at` says of which moment.

        Raises:
            StorageError: the storage was full or gone for too long.
        """
        self._patiently(lambda: self._save(name, fill, best_at), f"the checkpoint {name}")

    def remember(self, facts: dict[str, Any]) -> None:
        """Keep facts about the run beside its checkpoints.

        Raises:
            StorageError: the storage was full or gone for too long.
        """
        self._patiently(lambda: _write(self.place, FACTS, json.dumps(facts).encode()), FACTS)

    def recall(self) -> dict[str, Any]:
        """What `remember` was given last.

        Raises:
            ValueError: it is something else.
        """
        path = f"{self.place.folder}/{FACTS}"
        if self.place.filesystem.get_file_info(path).type != pyarrow.fs.FileType.File:
            return {}
        with self.place.filesystem.open_input_stream(path) as file:
            content = file.read(checkpoint.LARGEST_SUMS)
        try:
            facts = json.loads(content)
        except (ValueError, RecursionError):
            facts = None
        if not isinstance(facts, dict):
            raise ValueError(f"{path} holds no facts about the run; delete it")
        return facts

    def _save(self, name: str, fill: Callable[[Path], None], best_at: int | None) -> None:
        local = self.place.local
        if local is None:
            with tempfile.TemporaryDirectory(prefix="raygan-") as folder:
                fill(Path(folder))
                put(self.place, name, Path(folder))
                if best_at is not None:
                    keep_best(self.place, Path(folder), best_at)
        else:
            # Not made here: where a mount has vanished, a new folder would be on another disk.
            temporary = local / f"{WRITING}{uuid4().hex}"
            temporary.mkdir()
            try:
                fill(temporary)
                _into_place(temporary, local / name)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            if best_at is not None:
                keep_best(self.place, local / name, best_at)
        self._thin_out()

    def _thin_out(self) -> None:
        names = storage.newest_first(self.place)
        scheduled = [name for name in names if name.startswith(PREFIX)]
        too_many = [] if self._keep is None else scheduled[self._keep :]
        for name in too_many + [name for name in names[1:] if name.startswith(INTERIM)]:
            self.place.filesystem.delete_dir(f"{self.place.folder}/{name}")

    def _patiently(self, action: Callable[[], None], what: str) -> None:
        began, wait = None, FIRST_WAIT_SECONDS
        while True:
            try:
                action()
                break
            except (OSError, pyarrow.ArrowException) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                if began is None:
                    began = time.monotonic()
                    self._say(
                        f"the storage {self.place.folder} does not take {what} ({reason}); waiting for it, at most "
                        f"{self._timeout_seconds:g} s"
                    )
                left = began + self._timeout_seconds - time.monotonic()
                if left <= 0.0:
                    raise StorageError(
                        f"ray.storage_timeout_seconds: the storage {self.place.folder} did not take {what} within "
                        f"{self._timeout_seconds:g} s ({reason}); make room there, or bring it back. Earlier checkpoints are as they were"
                    ) from None
                time.sleep(min(wait, left))
                wait = min(2 * wait, LONGEST_WAIT_SECONDS)
        if began is not None:
            self._say(f"the storage takes {what} now, after {time.monotonic() - began:.0f} s")


def put(place: Place, name: str, source: Path) -> None:
    """Copy the checkpoint in `source` to a run's folder."""
    if place.local is None:
        try:
            storage.upload(place.filesystem, source, f"{place.folder}/{name}")
        except (OSError, pyarrow.ArrowException):
            with suppress(OSError, pyarrow.ArrowException):  # what is left has no checksum file, and counts as no checkpoint
                place.filesystem.delete_dir(f"{place.folder}/{name}")
            raise
        return
    temporary = place.local / f".copying-{uuid4().hex}"  # by no name that another process may clear away
    try:
        shutil.copytree(source, temporary)
        for file in temporary.iterdir():
            checkpoint.sync(file)
        _into_place(temporary, place.local / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def keep_best(place: Place, source: Path, images_seen: int) -> None:
    """Copy the checkpoint in `source` to the run's folder as its best, and then delete the one that was best before."""
    final = storage.checkpoint_name(images_seen, BEST)
    put(place, final, source)
    for name in storage.newest_first(place, (BEST,)):
        if name != final:
            place.filesystem.delete_dir(f"{place.folder}/{name}")


def set_aside(place: Place, name: str) -> None:
    """Rename a checkpoint that is damaged, so that it can be looked at and is not taken for a good one."""
    new = _unused(place, f"{DAMAGED}{name}")
    if place.local is not None:
        (place.local / name).rename(place.local / new)
        return
    place.filesystem.create_dir(f"{place.folder}/{new}", recursive=True)
    for entry in place.filesystem.get_file_info(pyarrow.fs.FileSelector(f"{place.folder}/{name}")):
        place.filesystem.move(entry.path, f"{place.folder}/{new}/{entry.base_name}")
    place.filesystem.delete_dir(f"{place.folder}/{name}")


def _unused(place: Place, name: str) -> str:
    there = {entry.base_name for entry in place.filesystem.get_file_info(pyarrow.fs.FileSelector(place.folder))}
    candidates: Iterable[str] = (name, *(f"{name}.{count}" for count in range(2, len(there) + 3)))
    return next(candidate for candidate in candidates if candidate not in there)


def _into_place(folder: Path, final: Path) -> None:
    """Give a written folder its name. One that is there already is out of the way first, for a folder is not replaced at once."""
    checkpoint.sync(folder)
    old = final.with_name(f"{WRITING}{uuid4().hex}")
    with suppress(FileNotFoundError):
        final.rename(old)
    folder.rename(final)
    checkpoint.sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _write(place: Place, name: str, content: bytes) -> None:
    if place.local is None:
        with place.filesystem.open_output_stream(f"{place.folder}/{name}") as file:
            file.write(content)
        return
    temporary = place.local / f".{name}-{os.getpid()}"
    temporary.write_bytes(content)
    checkpoint.sync(temporary)
    temporary.replace(place.local / name)
    checkpoint.sync(place.local)
