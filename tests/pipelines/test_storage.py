"""Checkpoint folders: kept, thinned out, taken over from another run, found where some are damaged, and waited for."""

import json
import os
import subprocess
import threading
import time

import pyarrow.fs
import pytest

from gan_core import checkpoint
from gan_core.checkpoint import DamagedError
from pipelines import storage
from pipelines.shelf import StorageError
from tests.pipelines.checkpoints import Flaky, damage, names, newest_text, saved, shelf, text_of, write


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
