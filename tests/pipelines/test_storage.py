"""Checkpoint folders: kept, thinned out, taken over from another run, found where some are damaged, and waited for."""

import json
import os
import subprocess
import threading
import time

import pyarrow.fs
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from gan_core import checkpoint
from gan_core.checkpoint import DamagedError
from pipelines import storage
from pipelines.shelf import Shelf, StorageError

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
    return sorted(entry.name for entry in path.iterdir())


def shelf(folder, *, keep=2, timeout_seconds=0.0, filesystem=None, said=None):
    place = storage.Place(filesystem or pyarrow.fs.LocalFileSystem(), str(folder))
    return Shelf(place, keep=keep, timeout_seconds=timeout_seconds, say=(said if said is not None else []).append)


def saved(shelf, step, *, prefix=storage.PREFIX, best_at=None):
    shelf.save(storage.checkpoint_name(step, prefix), lambda folder: write(folder, str(step), step) and None, best_at=best_at)


def newest_text(shelf):
    with shelf.newest() as found:
        return found.folder and text_of(found.folder)


class Flaky(pyarrow.fs.FSSpecHandler):
    """An object store of a sort: a folder of this machine, whose next `failures` writes fail, each in the middle of a file."""

    def __init__(self, root):
        super().__init__(DirFileSystem(str(root), LocalFileSystem(auto_mkdir=False)))
        self.failures = 0

    def open_output_stream(self, path, metadata):
        if self.failures:
            self.failures -= 1
            with self.fs.open(path, "wb") as file:
                file.write(b"half")
            raise OSError(5, "503 SlowDown")
        return super().open_output_stream(path, metadata)


@pytest.fixture(params=["folder", "object store"])
def kept(request, tmp_path):
    """A run's folder, and the shelf on it."""
    store = pyarrow.fs.PyFileSystem(Flaky(tmp_path))
    found = shelf(tmp_path / "run") if request.param == "folder" else shelf("run", filesystem=store)
    found.prepare()
    return tmp_path / "run", found


def test_checkpoints_are_thinned_out_and_the_best_is_kept(kept):
    folder, shelf = kept
    for step in (100, 200, 300):
        saved(shelf, step, best_at=step if step < 300 else None)
    assert names(folder) == ["best_000000000200", "checkpoint_000000000200", "checkpoint_000000000300"]
    assert newest_text(shelf) == "300"
    assert text_of(folder / "best_000000000200") == "200"


def test_an_interim_checkpoint_is_kept_while_it_is_the_newest_and_pushes_no_scheduled_one_out(kept):
    folder, shelf = kept
    for step in (100, 200):
        saved(shelf, step)
    for step in (210, 220, 230):
        saved(shelf, step, prefix=storage.INTERIM)
    assert names(folder) == ["checkpoint_000000000100", "checkpoint_000000000200", "interim_000000000230"]
    assert newest_text(shelf) == "230"
    saved(shelf, 300)
    assert names(folder) == ["checkpoint_000000000200", "checkpoint_000000000300"]


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


@pytest.mark.parametrize("how", ["state", "records", "note", "cut", "file missing", "note missing"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(kept, how):
    folder, shelf = kept
    saved(shelf, 100)
    saved(shelf, 200)
    damage(folder / "checkpoint_000000000200", how)
    with shelf.newest() as found:
        assert (found.name, text_of(found.folder)) == ("checkpoint_000000000100", "100")
        assert list(found.damaged) == ["checkpoint_000000000200"]
        assert "damaged" in found.damaged["checkpoint_000000000200"] or "no complete checkpoint" in found.damaged["checkpoint_000000000200"]
    assert names(folder) == ["checkpoint_000000000100", "damaged_checkpoint_000000000200"]
    saved(shelf, 200)
    damage(folder / "checkpoint_000000000200", how)
    assert newest_text(shelf) == "100"
    assert names(folder)[1:] == ["damaged_checkpoint_000000000200", "damaged_checkpoint_000000000200.2"]


def test_readers_pass_over_a_damaged_checkpoint_say_so_and_leave_it(tmp_path):
    found, said = shelf(tmp_path / "run"), []
    found.prepare()
    saved(found, 100)
    saved(found, 200)
    damage(tmp_path / "run" / "checkpoint_000000000200", "state")
    with storage.latest(str(tmp_path), "run", say=said.append) as folder:
        assert text_of(folder) == "100"
    assert [sentence.split(":")[0] for sentence in said] == ["checkpoint_000000000200 is damaged, so checkpoint_000000000100 is used"]
    assert names(tmp_path / "run") == ["checkpoint_000000000100", "checkpoint_000000000200"]


def test_where_all_are_damaged_nothing_is_touched_and_the_way_out_is_told(kept):
    folder, shelf = kept
    saved(shelf, 100)
    saved(shelf, 200)
    for name in names(folder):
        damage(folder / name, "state")
    with pytest.raises(DamagedError, match="(?s)none of the checkpoints in .*start anew with: raygan train --from-run run"), shelf.newest():
        pass
    assert names(folder) == ["checkpoint_000000000100", "checkpoint_000000000200"]


@pytest.mark.parametrize(
    "note",
    [
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"sha256": 3, "images_seen": 1}',
        b'{"images_seen": 1, "files": ["state.pt"]}',
        b'{"images_seen": "many", "files": {"state.pt": "%s"}}' % (b"0" * 64),
        b'{"images_seen": 1, "files": {"state.pt": "%s", "../../secret": "%s"}}' % (b"0" * 64, b"0" * 64),
        b'{"images_seen": 1, "sha256": "%s"' % (b"0" * (1 << 20)),
    ],
)
def test_a_list_of_checksums_that_is_none_is_refused(tmp_path, note):
    write(tmp_path, "x")
    (tmp_path / checkpoint.SUMS).write_bytes(note)
    with pytest.raises(DamagedError, match="no list of files in that folder with their checksums"):
        checkpoint.verify(tmp_path)


@pytest.mark.parametrize("failures", [1, 3, 5])
def test_a_store_that_fails_for_a_while_is_waited_for_and_has_a_whole_checkpoint_then(tmp_path, failures, monkeypatch):
    monkeypatch.setattr("pipelines.shelf.FIRST_WAIT_SECONDS", 0.01)
    handler, said = Flaky(tmp_path), []
    found = shelf("run", filesystem=pyarrow.fs.PyFileSystem(handler), timeout_seconds=60, said=said)
    found.prepare()
    saved(found, 100)
    handler.failures = failures
    saved(found, 200, best_at=200)
    assert handler.failures == 0
    assert newest_text(found) == "200"
    assert text_of(tmp_path / "run" / "best_000000000200") == "200"
    assert len(said) == 2
    assert "does not take the checkpoint checkpoint_000000000200 ([Errno 5] 503 SlowDown); waiting for it, at most 60 s" in said[0]
    assert "takes the checkpoint checkpoint_000000000200 now, after " in said[1]


def test_a_store_that_does_not_come_back_keeps_what_it_had(tmp_path):
    handler = Flaky(tmp_path)
    found = shelf("run", filesystem=pyarrow.fs.PyFileSystem(handler), timeout_seconds=0.0)
    found.prepare()
    saved(found, 100)
    handler.failures = 1_000
    with pytest.raises(StorageError, match=r"ray.storage_timeout_seconds: the storage run did not take .* within 0 s \(.*503 SlowDown"):
        saved(found, 200)
    handler.failures = 0
    assert newest_text(found) == "100"
    assert names(tmp_path / "run") == ["checkpoint_000000000100"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root, and a kernel that lets it")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


def fill_up(folder, left=4096):
    free = os.statvfs(folder)
    path = folder / "others"
    path.write_bytes(b"x" * (free.f_bavail * free.f_frsize - left))
    return path


def test_a_full_disk_is_waited_for_until_there_is_room(small_disk):
    said = []
    found = shelf(small_disk / "run", timeout_seconds=60, said=said)
    found.prepare()
    saved(found, 100)
    others = fill_up(small_disk)

    def make_room():
        while not said:
            time.sleep(0.01)
        others.unlink()

    threading.Thread(target=make_room).start()
    found.save("checkpoint_000000000200", lambda folder: write(folder, "x" * 50_000, 200) and None)
    assert newest_text(found) == "x" * 50_000
    assert "No space left on device" in said[0]
    assert names(small_disk / "run") == ["checkpoint_000000000100", "checkpoint_000000000200"]


def test_a_disk_that_stays_full_keeps_what_it_had_and_no_half_of_more(small_disk):
    found = shelf(small_disk / "run")
    found.prepare()
    saved(found, 100)
    fill_up(small_disk)
    with pytest.raises(StorageError, match="No space left on device"):
        found.save("checkpoint_000000000200", lambda folder: write(folder, "x" * 50_000, 200) and None)
    assert names(small_disk / "run") == ["checkpoint_000000000100"]
    assert newest_text(found) == "100"


def test_a_mount_that_vanished_is_not_replaced_by_a_folder_of_the_disk_below(tmp_path):
    found = shelf(tmp_path / "run")
    found.prepare()
    saved(found, 100)
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="No such file or directory"):
        saved(found, 200)
    assert not (tmp_path / "run").exists()


def test_a_writer_that_was_killed_leaves_nothing_that_counts(tmp_path):
    found = shelf(tmp_path / "run")
    found.prepare()
    saved(found, 100)
    write(tmp_path / "run" / ".writing-abc", "half")
    assert newest_text(found) == "100"
    found.prepare()
    assert names(tmp_path / "run") == ["checkpoint_000000000100"]


def test_facts_come_back_and_what_is_none_is_refused(kept):
    folder, shelf = kept
    assert shelf.recall() == {}
    shelf.remember({"micro_batch": 8})
    shelf.remember({"micro_batch": 4})
    assert shelf.recall() == {"micro_batch": 4}
    for content in ("[1]", "{", "[" * 100_000):
        (folder / "facts.json").write_text(content)
        with pytest.raises(ValueError, match="holds no facts about the run; delete it"):
            shelf.recall()


def test_a_list_of_ray_train_goes_where_it_is_not_needed_or_names_what_is_gone(tmp_path):
    place, path = storage.Place(pyarrow.fs.LocalFileSystem(), str(tmp_path)), tmp_path / storage.RAY_TRAIN_LIST
    write(tmp_path / "checkpoint_000000000100", "x")

    def settled(content, needed):
        path.write_text(content)
        storage.settle_ray_list(place, needed=needed)
        return path.exists()

    def listing(*steps):
        return json.dumps({"checkpoint_results": [{"checkpoint_dir_name": storage.checkpoint_name(step)} for step in steps]})

    assert settled(listing(100), needed=True)
    assert storage.ray_list(place) == {"checkpoint_000000000100"}
    assert not settled(listing(100, 200), needed=True)
    assert not settled(listing(100), needed=False)
    assert not settled("{", needed=True)
    storage.settle_ray_list(place, needed=True)
    assert storage.ray_list(place) == set()


@pytest.fixture
def place(tmp_path):
    """A run with checkpoints of its own and Ray Train's list of them, and a donor."""
    write(tmp_path / "mine" / "checkpoint_000000000300", "mine")
    (tmp_path / "mine" / storage.RAY_TRAIN_LIST).write_text("[]")
    write(tmp_path / "donor" / "checkpoint_000000000200", "donor's")
    return tmp_path


def latest_text(place):
    with storage.latest(str(place), "mine") as folder:
        return text_of(folder)


DONOR, POINT = "donor/checkpoint_000000000200", {"step_ratio": "2:1"}


def test_anothers_checkpoint_becomes_the_only_one(place):
    storage.adopt(str(place), "mine", DONOR, POINT)
    assert names(place / "mine") == [storage.ADOPTED, "checkpoint_000000000200"]
    assert latest_text(place) == "donor's"


def test_taking_over_again_does_not_undo_what_was_trained_since(place):
    storage.adopt(str(place), "mine", DONOR, POINT)
    write(place / "mine" / "checkpoint_000000000400", "later")
    storage.adopt(str(place), "mine", DONOR, POINT)
    assert latest_text(place) == "later"


def test_taking_over_that_was_cut_off_is_finished(place):
    (place / "mine" / storage.ADOPTED).write_text(json.dumps({"donor": DONOR, "point": POINT, "complete": False}))
    storage.finish_adoption(str(place), "mine")
    assert names(place / "mine") == [storage.ADOPTED, "checkpoint_000000000200"]
    storage.finish_adoption(str(place), "mine")
    storage.finish_adoption(str(place), "nobody")
    assert names(place) == ["donor", "mine"]


def test_a_donor_that_is_gone_is_an_error_and_nothing_is_lost(place):
    with pytest.raises(ValueError, match=r"checkpoint donor/checkpoint_000000000900 is gone"):
        storage.adopt(str(place), "mine", "donor/checkpoint_000000000900", POINT)
    assert latest_text(place) == "mine"
