"""Checkpoint folders of a run, `<storage>/<run id>/checkpoint_<images seen>`: named and found.

Those that were wished for between the scheduled ones are called `interim_<images seen>`, the best one `best_<images seen>`, and damaged
ones that were set aside `damaged_...`. shelf.py writes them, sweeps/adoption.py takes them over from other runs.
"""

import errno
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

import pyarrow.fs

from gan_core import checkpoint
from gan_core.checkpoint import SUMS, DamagedError

PREFIX, INTERIM, BEST = "checkpoint_", "interim_", "best_"
TO_GO_ON_FROM = (PREFIX, INTERIM)
DIGITS = 12
TRIES = 5  # of a reader, while a run that lives replaces its checkpoints
MARK = ".raygan"  # in a run's folder, by the driver that made it: the disk below a mount that has vanished does not have it
PENDING, RAY_TRAIN_LIST = "undelivered.json", "checkpoint_manager_snapshot.json"


T = TypeVar("T")


class Place(NamedTuple):
    """A run's folder, in any of pyarrow's file systems."""

    filesystem: Any
    folder: str

    @property
    def local(self) -> Path | None:
        """The folder, where it is on this machine or mounted here."""
        return Path(self.folder) if isinstance(self.filesystem, pyarrow.fs.LocalFileSystem) else None


class Found(NamedTuple):
    """The newest sound checkpoint, `folder` being where its files are on this machine; None where there is none.

    `damaged` are the newer ones that were passed over, each with the reason.
    """

    name: str | None
    folder: Path | None
    damaged: dict[str, str]


def place_of(storage_path: str, run_id: str) -> Place:
    """Where a run's checkpoints are."""
    filesystem, path = _filesystem(storage_path)
    return Place(filesystem, f"{path}/{run_id}")


def make_folder(storage_path: str, name: str) -> Place:
    """Make the folder of a run or a sweep in the storage, with MARK in it. The driver's to do: others wait until they see it."""
    place = place_of(storage_path, name)
    place.filesystem.create_dir(place.folder, recursive=True)
    if not _is_file(place.filesystem, f"{place.folder}/{MARK}"):
        with place.filesystem.open_output_stream(f"{place.folder}/{MARK}") as file:
            file.write(b"made by raygan's driver; where this file is missing, nothing is read or written\n")
    return place


def require_made(place: Place) -> None:
    """Check that this machine sees the folder that the driver made.

    Raises:
        OSError: it does not.
    """
    if not _is_file(place.filesystem, f"{place.folder}/{MARK}"):
        raise FileNotFoundError(
            errno.ENOENT, "this machine does not see the folder that the driver made; is the storage mounted?", place.folder
        )


def checkpoint_name(images_seen: int, prefix: str = PREFIX) -> str:
    """A name that sorts by the clock."""
    return f"{prefix}{images_seen:0{DIGITS}d}"


@contextmanager
def latest(storage_path: str, run_id: str, *, best: bool = False, say: Callable[[str], None] | None = None) -> Iterator[Path]:
    """The newest sound checkpoint of a run, or its best, on this machine while the block runs; object stores are copied from.

    Newer ones that are damaged are passed over, and the user is told: by `say`, else on the terminal.

    Raises:
        ValueError: there is none.
    """
    with newest_sound(place_of(storage_path, run_id), (BEST,) if best else TO_GO_ON_FROM) as found:
        if found.folder is None:
            raise ValueError(f"run {run_id} has no {'best ' if best else ''}checkpoint in {storage_path}")
        for sentence in told(found):
            say(sentence) if say else print(sentence, file=sys.stderr)
        yield found.folder


def read_latest(
    storage_path: str, run_id: str, action: Callable[[Path], T], *, best: bool = False, say: Callable[[str], None] | None = None
) -> T:
    """What `action` makes of `latest`'s folder, of a run that may live: where a newer checkpoint replaces that one meanwhile, of the newer.

    Raises:
        ValueError: there is none.
    """
    for left in reversed(range(TRIES)):
        with latest(storage_path, run_id, best=best, say=say) as folder:
            try:
                return action(folder)
            except (DamagedError, FileNotFoundError):
                if not left or (folder / SUMS).is_file():
                    raise
    raise AssertionError("the last try returns or raises")


def told(found: Found) -> list[str]:
    """A sentence for the user about each damaged checkpoint."""
    return [f"{name} is damaged, so {found.name} is used: {reason}" for name, reason in found.damaged.items()]


@contextmanager
def newest_sound(place: Place, prefixes: tuple[str, ...] = TO_GO_ON_FROM) -> Iterator[Found]:
    """The newest checkpoint whose files all have their checksums, on this machine while the block runs.

    Raises:
        DamagedError: there are checkpoints, and none is sound.
    """
    for left in reversed(range(TRIES)):
        names = newest_first(place, prefixes)
        with _first_sound(place, names) as found:
            if left and found.damaged and newest_first(place, prefixes) != names:
                continue  # what was deleted or replaced meanwhile is not damaged
            if found.damaged and found.name is None:
                lines = "\n  ".join(f"{name}: {reason}" for name, reason in found.damaged.items())
                run_id = place.folder.rpartition("/")[2]
                raise DamagedError(
                    f"none of the checkpoints in {place.folder} is sound, and nothing there was changed:\n  {lines}\nPut a good copy "
                    f"back, or start anew with: raygan train --from-run {run_id}"
                )
            yield found
            return


@contextmanager
def _first_sound(place: Place, names: list[str]) -> Iterator[Found]:
    damaged: dict[str, str] = {}
    for name in names:
        with ExitStack() as stack:
            try:
                folder = stack.enter_context(opened(place, name))
                checkpoint.verify(folder)
            except DamagedError as error:
                damaged[name] = error.reason
            except OSError as error:
                if error.errno not in (errno.EIO, errno.ENOENT):
                    raise
                damaged[name] = f"it cannot be read: {error}"
            else:
                yield Found(name, folder, damaged)
                return
    yield Found(None, None, damaged)


@contextmanager
def opened(place: Place, name: str) -> Iterator[Path]:
    """A checkpoint's folder on this machine while the block runs."""
    if place.local is not None:
        yield place.local / name
        return
    with tempfile.TemporaryDirectory(prefix="raygan-") as copy:
        pyarrow.fs.copy_files(f"{place.folder}/{name}", copy, source_filesystem=place.filesystem)
        yield Path(copy)


def newest_first(place: Place, prefixes: tuple[str, ...] = TO_GO_ON_FROM) -> list[str]:
    """The names of a run's checkpoints, complete or not; of those of one moment the scheduled one first."""
    names = [name for prefix in prefixes for name in _names(place.filesystem, place.folder, prefix)]
    return sorted(names, key=lambda name: (name[-DIGITS:], not name.startswith(INTERIM)), reverse=True)


def has(storage_path: str, run_id: str, name: str) -> bool:
    """Whether the run has this checkpoint, complete."""
    return is_complete(place_of(storage_path, run_id), name)


def is_complete(place: Place, name: str) -> bool:
    """Whether all of a checkpoint has been written; its files may be damaged."""
    return _is_file(place.filesystem, f"{place.folder}/{name}/{SUMS}")


def _is_file(filesystem: Any, path: str) -> bool:
    return bool(filesystem.get_file_info(path).type == pyarrow.fs.FileType.File)


def upload(filesystem: Any, source: Path, folder: str) -> None:
    """Copy a checkpoint's files. Object stores cannot move folders, so the checksum file goes last: with it the copy is complete.

    Raises:
        OSError: the storage did not take a file as it is.
    """
    filesystem.create_dir(folder, recursive=True)
    for file in sorted(source.iterdir(), key=lambda file: file.name == SUMS):
        pyarrow.fs.copy_files(str(file), f"{folder}/{file.name}", destination_filesystem=filesystem)
        there = filesystem.get_file_info(f"{folder}/{file.name}").size
        if there != file.stat().st_size:
            raise OSError(errno.EIO, f"{file.stat().st_size} bytes were written, {there} arrived", f"{folder}/{file.name}")


def _names(filesystem: Any, folder: str, prefix: str) -> list[str]:
    entries = filesystem.get_file_info(pyarrow.fs.FileSelector(folder, allow_not_found=True))
    folders = [entry.base_name for entry in entries if entry.type == pyarrow.fs.FileType.Directory]
    return [name for name in folders if name.startswith(prefix)]


def ray_list(place: Place) -> set[str]:
    """The checkpoints that Ray Train keeps a list of, to have them scored."""
    path = f"{place.folder}/{RAY_TRAIN_LIST}"
    if not _is_file(place.filesystem, path):
        return set()
    with place.filesystem.open_input_stream(path) as file:
        return {result["checkpoint_dir_name"] for result in json.loads(file.read())["checkpoint_results"]}


def settle_ray_list(place: Place, *, needed: bool) -> None:
    """Delete Ray Train's list where it is not needed, or holds a checkpoint that is gone: it would refuse to start."""
    path = f"{place.folder}/{RAY_TRAIN_LIST}"
    if not _is_file(place.filesystem, path):
        return
    try:
        usable = needed and ray_list(place) <= set(newest_first(place, (PREFIX,)))
    except (ValueError, KeyError, TypeError):
        usable = False
    if not usable:
        place.filesystem.delete_file(path)


def has_checkpoint(storage_path: str, run_id: str) -> bool:
    """Whether the storage holds a complete checkpoint of the run."""
    place = place_of(storage_path, run_id)
    return any(is_complete(place, name) for name in newest_first(place))


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
