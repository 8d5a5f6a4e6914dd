"""What the ranks of a worker group tell each other of the storage, without Ray: rank 0's words are kept, and given to another rank."""

import pytest

from gan_core.checkpoint import DamagedError
from pipelines.rank import RaySession
from pipelines.shelf import StorageError
from tests.pipelines.checkpoints import damage, names, saved, shelf, text_of


class Group:
    """Ranks in turn: what rank 0 says first is what the others hear first."""

    def __init__(self, shelf):
        self.shelf, self.said = shelf, []

    def session(self, rank):
        session, heard = object.__new__(RaySession), iter(list(self.said))
        session.rank, session._shelf, session._validates = rank, self.shelf, False
        session._noticed = session._heeded = None

        def from_rank_zero(value):
            if rank == 0:
                self.said.append(value)
                return value
            return next(heard)

        session._from_rank_zero = from_rank_zero
        return session


@pytest.fixture
def group(tmp_path):
    return Group(shelf(tmp_path / "run"))


def failure_of(session):
    with pytest.raises((DamagedError, StorageError)) as raised, session.latest_checkpoint():
        pass
    return type(raised.value), str(raised.value)


def test_all_ranks_open_the_checkpoint_that_rank_0_chose(group):
    saved(group.shelf, 100)
    saved(group.shelf, 200)
    damage(group.shelf.place.local / "checkpoint_000000000200", "state")
    for rank in (0, 1):
        with group.session(rank).latest_checkpoint() as found:
            assert (found.name, text_of(found.folder), list(found.damaged)) == (
                "checkpoint_000000000100",
                "100",
                ["checkpoint_000000000200"],
            )
    assert len(group.said) == 1


def test_a_run_without_checkpoints_begins_at_zero_on_all_ranks(group):
    for rank in (0, 1):
        with group.session(rank).latest_checkpoint() as found:
            assert found == (None, None, {})


@pytest.mark.parametrize("error", [DamagedError("no state of a training"), ValueError("of other settings"), OSError(5, "I/O error")])
def test_a_checkpoint_that_turns_out_bad_while_it_is_loaded_is_not_announced_a_second_time(group, error):
    saved(group.shelf, 100)
    with pytest.raises(type(error)) as raised, group.session(0).latest_checkpoint():
        raise error
    assert raised.value is error
    assert len(group.said) == 1


def test_what_ends_rank_0s_search_ends_that_of_all(group):
    saved(group.shelf, 100)
    damage(group.shelf.place.local / "checkpoint_000000000100", "state")
    kind, sentence = failure_of(group.session(0))
    assert kind is DamagedError
    assert "none of the checkpoints" in sentence
    assert failure_of(group.session(1)) == (kind, sentence)


def test_a_storage_that_stays_away_is_told_to_all_ranks(group, tmp_path):
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    kind, sentence = failure_of(group.session(0))
    assert kind is StorageError
    assert "this machine does not see the folder that the driver made" in sentence
    assert failure_of(group.session(1)) == (kind, sentence)
    group.said.clear()
    for rank in (0, 1):
        with pytest.raises(StorageError, match="did not give facts.json within 0 s"):
            group.session(rank).recall()
    group.said.clear()
    for rank in (0, 1):
        with pytest.raises(StorageError, match="did not take the checkpoint checkpoint_000000000200 within 0 s"):
            group.session(rank).save("checkpoint_000000000200", lambda folder: None, best_at=None)
    assert names(tmp_path) == ["elsewhere"]


def test_a_rank_whose_machine_does_not_see_what_rank_0_chose_says_so(group, tmp_path):
    saved(group.shelf, 100)
    with group.session(0).latest_checkpoint():
        pass
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    kind, sentence = failure_of(group.session(1))
    assert kind is StorageError
    assert "did not give checkpoint_000000000100 within 0 s" in sentence


def test_facts_that_are_none_are_refused_on_all_ranks(group, tmp_path):
    (tmp_path / "run" / "facts.json").write_text("[1]")
    for rank in (0, 1):
        with pytest.raises(ValueError, match="holds no facts about the run; delete it"):
            group.session(rank).recall()
