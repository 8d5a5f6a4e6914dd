"""A run's folder in the storage, as the one process that writes there uses it: checkpoints are put there whole or not at all.

A storage that is full or gone is waited for. On a mounted file system a checkpoint appears under its name when all of it is on the disk;
in an object store, which cannot move folders, its checksum file comes last.
"""

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pyarrow
import pyarrow.fs

from gan_core import checkpoint
from pipelines import storage
from pipelines.storage import BEST, INTERIM, PREFIX, Found, Place

T = TypeVar("T")

DAMAGED, FACTS = "damaged_", "facts.json"
WRITING, COPYING = ".writing-", ".copying-"  # COPYING also by another process than the run's
STALE_SECONDS = 3600.0
# A rank that does nothing for 5 seconds may be taken for one that hangs: that is the least ray.stall_timeout_seconds.
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 4.0


class StorageError(RuntimeError):
    """The storage did not take a checkpoint, or give one, in the time allowed."""


class Shelf:
    """Where a run's checkpoints are kept: the last `keep` scheduled ones (None: somebody else thins them out), and an interim one while it
    is the newest. `say` tells the user that the storage went away, and that it came back.
    """

    def __init__(self, place: Place, *, keep: int | None, timeout_seconds: float, say: Callable[[str], None]) -> None:
        self.place = place
        self._keep, self._timeout_seconds, self._say = keep, timeout_seconds, say

    def prepare(self, *, alone: bool = True) -> None:
        """Wait until the folder that the driver made is there, and remove what a process left that was killed while it wrote; unless
        `alone`, others may be copying.

        Raises:
            StorageError: it is not there in the time allowed. It is not made: where a mount has vanished it would be on another disk.
        """
        self._patiently(partial(self._prepare, alone=alone), "the run's folder", reads=True)

    def _prepare(self, *, alone: bool) -> None:
        storage.require_made(self.place)
        if self.place.local is None:
            return
        for rest in (*self.place.local.glob(f"{WRITING}*"), *self.place.local.glob(f"{COPYING}*")):
            if alone or rest.name.startswith(WRITING) or _age(rest) > STALE_SECONDS:
                shutil.rmtree(rest, ignore_errors=True)

    @contextmanager
    def newest(self) -> Iterator[Found]:
        """`storage.newest_sound`; those that were passed over are set aside, so that nobody takes them for good ones again.

        Raises:
            DamagedError: there are checkpoints, and none is sound. They are left as they are.
            StorageError: the storage was gone for too long.
        """
        with ExitStack() as stack:
            found = self._patiently(partial(self._newest, stack), "the newest checkpoint", reads=True)
            for name in found.damaged:
                new = self._patiently(partial(set_aside, self.place, name), f"another name for {name}")
                found.damaged[name] += f"; it was set aside as {new}" if new else ""
            yield found

    def _newest(self, stack: ExitStack) -> Found:
        with ExitStack() as attempt:
            found = attempt.enter_context(storage.newest_sound(self.place))
            storage.require_made(self.place)  # afterwards: nothing was found may mean that it is gone
            stack.push(attempt.pop_all())
        return found

    @contextmanager
    def opened(self, name: str) -> Iterator[Path]:
        """`storage.opened`, for a checkpoint that another machine has found complete: it is waited for until it is so here.

        Raises:
            StorageError: it is not in the time allowed.
        """
        with ExitStack() as stack:
            yield self._patiently(partial(self._opened, name, stack), name, reads=True)

    def _opened(self, name: str, stack: ExitStack) -> Path:
        storage.require_made(self.place)
        if not storage.is_complete(self.place, name):
            raise FileNotFoundError(errno.ENOENT, "this machine does not see it whole", f"{self.place.folder}/{name}")
        return stack.enter_context(storage.opened(self.place, name))

    def save(self, name: str, fill: Callable[[Path], None], *, best_at: int | None = None) -> None:
        """Keep the checkpoint that `fill` writes into a folder, also as the best where `best_at` says of which moment.

        Raises:
            StorageError: the storage was full or gone for too long.
        """
        with ExitStack() as stack:
            source = self._patiently(partial(self._save, name, fill, stack), f"the checkpoint {name}")
            if best_at is not None:
                self._patiently(partial(keep_best, self.place, source, best_at), f"a copy of {name} as the best")
        self._patiently(self._thin_out, "the end of old checkpoints")

    def remember(self, facts: dict[str, Any]) -> None:
        """Keep facts about the run beside its checkpoints.

        Raises:
            StorageError: the storage was full or gone for too long.
        """
        self._patiently(partial(_write, self.place, FACTS, json.dumps(facts).encode()), FACTS)

    def recall(self) -> dict[str, Any]:
        """What `remember` was given last.

        Raises:
            ValueError: it is something else.
            StorageError: the storage was gone for too long.
        """
        content = self._patiently(partial(_read, self.place, FACTS), FACTS, reads=True)
        try:
            facts = json.loads(content or b"{}")
        except (ValueError, RecursionError):
            facts = None
        if not isinstance(facts, dict):
            raise ValueError(f"{self.place.folder}/{FACTS} holds no facts about the run; delete it")
        return facts

    def handed_over(self) -> set[str]:
        """The checkpoints that Ray Train knows of.

        Raises:
            StorageError: the storage was gone for too long.
        """
        return self._patiently(partial(storage.ray_list, self.place), "Ray Train's list", reads=True)

    def _save(self, name: str, fill: Callable[[Path], None], stack: ExitStack) -> Path:
        """Returns a folder of this machine that has the checkpoint too, until `stack` is closed."""
        if self.place.local is None:
            with ExitStack() as attempt:
                folder = Path(attempt.enter_context(tempfile.TemporaryDirectory(prefix="raygan-")))
                fill(folder)
                put(self.place, name, folder)
                stack.push(attempt.pop_all())
            return folder
        # Not made here: where a mount has vanished, a new folder would be on another disk.
        temporary = self.place.local / f"{WRITING}{uuid4().hex}"
        temporary.mkdir()
        try:
            fill(temporary)
            _into_place(temporary, self.place.local / name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return self.place.local / name

    def _thin_out(self) -> None:
        names = storage.newest_first(self.place)
        scheduled = [name for name in names if name.startswith(PREFIX)]
        too_many = [] if self._keep is None else scheduled[self._keep :]
        for name in too_many + [name for name in names[1:] if name.startswith(INTERIM)]:
            self.place.filesystem.delete_dir(f"{self.place.folder}/{name}")

    def _patiently(self, action: Callable[[], T], what: str, *, reads: bool = False) -> T:
        began, wait = None, FIRST_WAIT_SECONDS
        verb, remedy = ("give", "bring it back") if reads else ("take", "make room there, or bring it back")
        while True:
            try:
                result = action()
                break
            except (OSError, pyarrow.ArrowException) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                if began is None:
                    began = time.monotonic()
                    self._say(
                        f"the storage {self.place.folder} does not {verb} {what} ({reason}); waiting for it, at most "
                        f"{self._timeout_seconds:g} s"
                    )
                left = began + self._timeout_seconds - time.monotonic()
                if left <= 0.0:
                    raise StorageError(
                        f"ray.storage_timeout_seconds: the storage {self.place.folder} did not {verb} {what} within "
                        f"{self._timeout_seconds:g} s ({reason}); {remedy}. Earlier checkpoints are as they were"
                    ) from None
                time.sleep(min(wait, left))
                wait = min(2 * wait, LONGEST_WAIT_SECONDS)
        if began is not None:
            self._say(f"the storage {verb}s {what} now, after {time.monotonic() - began:.0f} s")
        return result


def put(place: Place, name: str, source: Path) -> None:
    """Copy the checkpoint in `source` to a run's folder, unless it is there already."""
    if place.local is None:
        if _read(place, f"{name}/{checkpoint.SUMS}") == (source / checkpoint.SUMS).read_bytes():
            return
        try:
            storage.upload(place.filesystem, source, f"{place.folder}/{name}")
        except (OSError, pyarrow.ArrowException):
            with suppress(OSError, pyarrow.ArrowException):  # what is left has no checksum file, and counts as no checkpoint
                place.filesystem.delete_dir(f"{place.folder}/{name}")
            raise
        return
    temporary = place.local / f"{COPYING}{uuid4().hex}"  # by no name that another process may clear away
    temporary.mkdir()  # copytree would make the folder above it too, where a mount has vanished
    try:
        shutil.copytree(source, temporary, dirs_exist_ok=True)
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


def set_aside(place: Place, name: str) -> str:
    """Rename a checkpoint that is damaged, so that it can be looked at and is not taken for a good one; returns the new name."""
    if name not in _names(place):
        return ""  # done, though the storage had not said so
    new = _unused(place, f"{DAMAGED}{name}")
    if place.local is not None:
        (place.local / name).rename(place.local / new)
        return new
    place.filesystem.create_dir(f"{place.folder}/{new}", recursive=True)
    for entry in place.filesystem.get_file_info(pyarrow.fs.FileSelector(f"{place.folder}/{name}")):
        place.filesystem.move(entry.path, f"{place.folder}/{new}/{entry.base_name}")
    place.filesystem.delete_dir(f"{place.folder}/{name}")
    return new


def _unused(place: Place, name: str) -> str:
    there = _names(place)
    candidates: Iterable[str] = (name, *(f"{name}.{count}" for count in range(2, len(there) + 3)))
    return next(candidate for candidate in candidates if candidate not in there)


def _names(place: Place) -> set[str]:
    return {entry.base_name for entry in place.filesystem.get_file_info(pyarrow.fs.FileSelector(place.folder))}


def _into_place(folder: Path, final: Path) -> None:
    """Give a written folder its name. One that is there already is out of the way first, for a folder is not replaced at once."""
    checkpoint.sync(folder)
    old = final.with_name(f"{WRITING}{uuid4().hex}")
    with suppress(FileNotFoundError):
        final.rename(old)
    folder.rename(final)
    checkpoint.sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _age(folder: Path) -> float:
    """Seconds since something was written there, by this machine's clock; none where it is gone."""
    with suppress(FileNotFoundError):
        return time.time() - max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    return 0.0


def _read(place: Place, name: str) -> bytes | None:
    """A small file's content; None where the run's folder has no such file.

    Raises:
        OSError: it cannot be read, or the folder itself is gone.
    """
    path = f"{place.folder}/{name}"
    if place.filesystem.get_file_info(path).type != pyarrow.fs.FileType.File:
        storage.require_made(place)
        return None
    with place.filesystem.open_input_stream(path) as file:
        content: bytes = file.read(checkpoint.LARGEST_SUMS)
    return content


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
