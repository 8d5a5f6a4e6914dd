"""Checkpoint folders: kept, thinned out, and taken over from another run."""

import json

import pytest

from gan_core.checkpoint import SUMS
from pipelines import storage


def write(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state").write_text(text)
    (folder / SUMS).write_text(f"sums of {text}")
    return folder


def names(path):
    return sorted(entry.name for entry in path.iterdir())


def test_checkpoints_are_put_thinned_out_and_the_best_is_kept(tmp_path):
    place = tmp_path / "runs"
    for step in (100, 200, 300):
        source = write(tmp_path / f"source{step}", str(step))
        best_at = step if step < 300 else None
        storage.put(str(place), "run", storage.checkpoint_name(step), source, keep=2, best_at=best_at)
    assert names(place / "run") == ["best_000000000200", "checkpoint_000000000200", "checkpoint_000000000300"]
    assert storage.has(str(place), "run", storage.checkpoint_name(300))
    assert not storage.has(str(place), "run", storage.checkpoint_name(100))
    with storage.latest(str(place), "run") as folder:
        assert (folder / "state").read_text() == "300"


@pytest.fixture
def place(tmp_path):
    """A run with checkpoints of its own and Ray Train's list of them, and a donor."""
    write(tmp_path / "mine" / "checkpoint_000000000300", "mine")
    (tmp_path / "mine" / storage.RAY_TRAIN_LIST).write_text("[]")
    write(tmp_path / "donor" / "checkpoint_000000000200", "donor's")
    return tmp_path


DONOR, POINT = "donor/checkpoint_000000000200", {"step_ratio": "2:1"}


def test_anothers_checkpoint_becomes_the_only_one(place):
    storage.adopt(str(place), "mine", DONOR, POINT)
    assert names(place / "mine") == [storage.ADOPTED, "checkpoint_000000000200"]
    assert storage.latest_in(place / "mine").joinpath("state").read_text() == "donor's"


def test_taking_over_again_does_not_undo_what_was_trained_since(place):
    storage.adopt(str(place), "mine", DONOR, POINT)
    write(place / "mine" / "checkpoint_000000000400", "later")
    storage.adopt(str(place), "mine", DONOR, POINT)
    assert storage.latest_in(place / "mine").name == "checkpoint_000000000400"


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
    assert storage.latest_in(place / "mine").joinpath("state").read_text() == "mine"
