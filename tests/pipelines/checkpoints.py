"""Checkpoints without a training, a shelf that keeps them, and an object store that fails when it is told to."""

import pyarrow.fs
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from gan_core import checkpoint
from pipelines import storage
from pipelines.shelf import Shelf

PENDING = storage.PENDING


def write(folder, text, images_seen=0):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PENDING).write_text("[]")
    (folder / "samples.png").write_text("a picture")
    checkpoint.save({"images_seen": images_seen, "config": {}, "text": text}, folder, beside=(PENDING,))
    return folder


def text_of(folder):
    return checkpoint.load(folder)["text"]


def names(path):
    return sorted(entry.name for entry in path.iterdir() if entry.name != storage.MARK)


def made(folder, filesystem=None):
    """A run's place as its driver makes it, or, in an object store, as far as it does."""
    place = storage.Place(filesystem or pyarrow.fs.LocalFileSystem(), str(folder))
    place.filesystem.create_dir(place.folder)
    with place.filesystem.open_output_stream(f"{place.folder}/{storage.MARK}"):
        pass
    return place


def shelf(folder, *, keep=2, timeout_seconds=0.0, filesystem=None, said=None):
    place = made(folder, filesystem)
    return Shelf(place, keep=keep, timeout_seconds=timeout_seconds, say=(said if said is not None else []).append)


def saved(shelf, step, *, prefix=storage.PREFIX, best_at=None):
    shelf.save(storage.checkpoint_name(step, prefix), lambda folder: write(folder, str(step), step) and None, best_at=best_at)


def newest_text(shelf):
    with shelf.newest() as found:
        return found.folder and text_of(found.folder)


def damage(folder, how):
    if how == "note missing":
        (folder / checkpoint.SUMS).unlink()
    elif how == "file missing":
        (folder / PENDING).unlink()
    elif how == "cut":
        content = (folder / checkpoint.STATE).read_bytes()
        (folder / checkpoint.STATE).write_bytes(content[: len(content) // 2])
    else:
        path = folder / {"state": checkpoint.STATE, "records": PENDING, "note": checkpoint.SUMS}[how]
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)


class Flaky(pyarrow.fs.FSSpecHandler):
    """An object store of a sort: a folder of this machine, whose next `failures` writes fail, each in the middle of a file, and whose next
    `away` requests of other kinds fail. It goes for good when something is written to a path with `until` in it. `written` are all paths.
    """

    def __init__(self, root):
        super().__init__(DirFileSystem(str(root), LocalFileSystem(auto_mkdir=False)))
        self.failures, self.away, self.until, self.written = 0, 0, None, []

    def _answer(self):
        if self.away:
            self.away -= 1
            raise OSError(107, "Transport endpoint is not connected")

    def get_file_info(self, paths):
        self._answer()
        return super().get_file_info(paths)

    def get_file_info_selector(self, selector):
        self._answer()
        return super().get_file_info_selector(selector)

    def open_input_stream(self, path):
        self._answer()
        return super().open_input_stream(path)

    def open_input_file(self, path):
        self._answer()
        return super().open_input_file(path)

    def open_output_stream(self, path, metadata):
        self.written.append(path)
        if self.until and self.until in path:
            self.failures = 1_000
        if self.failures:
            self.failures -= 1
            with self.fs.open(path, "wb") as file:
                file.write(b"half")
            raise OSError(5, "503 SlowDown")
        return super().open_output_stream(path, metadata)
