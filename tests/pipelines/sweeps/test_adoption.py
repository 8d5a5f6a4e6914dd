"""Taking over another run's checkpoint."""

import json

import pytest

from pipelines import shelf, storage
from pipelines.sweeps import adoption
from tests.pipelines.checkpoints import damage, names, text_of, write


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
    adoption.adopt(str(place), "mine", DONOR, POINT)
    assert names(place / "mine") == [adoption.ADOPTED, "checkpoint_000000000200"]
    assert latest_text(place) == "donor's"


def test_taking_over_again_does_not_undo_what_was_trained_since(place):
    adoption.adopt(str(place), "mine", DONOR, POINT)
    write(place / "mine" / "checkpoint_000000000400", "later")
    adoption.adopt(str(place), "mine", DONOR, POINT)
    assert latest_text(place) == "later"


def test_taking_over_that_was_cut_off_is_finished(place):
    (place / "mine" / adoption.ADOPTED).write_text(json.dumps({"donor": DONOR, "point": POINT, "complete": False}))
    adoption.finish_adoption(str(place), "mine")
    assert names(place / "mine") == [adoption.ADOPTED, "checkpoint_000000000200"]
    adoption.finish_adoption(str(place), "mine")
    adoption.finish_adoption(str(place), "nobody")
    assert names(place) == ["donor", "mine"]


def test_a_donor_that_is_gone_is_an_error_and_nothing_is_lost(place):
    with pytest.raises(ValueError, match=r"checkpoint donor/checkpoint_000000000900 is gone"):
        adoption.adopt(str(place), "mine", "donor/checkpoint_000000000900", POINT)
    assert latest_text(place) == "mine"


@pytest.mark.parametrize("how", ["state", "note missing"])
@pytest.mark.parametrize("name", ["checkpoint_000000000300", "checkpoint_000000000200"])
def test_a_donor_that_is_damaged_costs_the_run_none_of_its_own(place, how, name):
    (place / "mine" / "checkpoint_000000000300").rename(place / "mine" / name)
    damage(place / "donor" / "checkpoint_000000000200", how)
    with pytest.raises(ValueError, match=r"the checkpoint donor/checkpoint_000000000200 is gone from .*, or damaged; keep more"):
        adoption.adopt(str(place), "mine", DONOR, POINT)
    assert names(place / "mine") == sorted([storage.RAY_TRAIN_LIST, name])
    assert latest_text(place) == "mine"
    assert adoption.adopted(str(place), "mine") is None


def test_a_donor_that_goes_before_it_is_copied_costs_the_run_none_of_its_own(place, monkeypatch):
    monkeypatch.setattr(storage, "has", lambda *_: True)
    with pytest.raises(ValueError, match=r"checkpoint donor/checkpoint_000000000900 is gone"):
        adoption.adopt(str(place), "mine", "donor/checkpoint_000000000900", POINT)
    assert latest_text(place) == "mine"
    assert adoption.adopted(str(place), "mine") is None


def test_a_disk_that_fills_up_while_a_checkpoint_is_taken_over_costs_the_run_none_of_its_own(place, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shelf, "_into_place", full)
        with pytest.raises(OSError, match="No space left"):
            adoption.adopt(str(place), "mine", DONOR, POINT)
    assert latest_text(place) == "mine"
    adoption.finish_adoption(str(place), "mine")
    assert names(place / "mine") == [adoption.ADOPTED, "checkpoint_000000000200"]
    assert latest_text(place) == "donor's"
