"""A run and a sweep have one driver."""

import pytest

from pipelines import guard
from pipelines.guard import only_driver


def test_a_run_has_one_driver(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "WAIT_SECONDS", 0.2)
    told = []
    with only_driver("abc", str(tmp_path), told.append):
        with only_driver("other", str(tmp_path), told.append):
            assert told == []
        with pytest.raises(ValueError, match="another driver of this run is at work"), only_driver("abc", str(tmp_path), told.append):
            pass
    assert len(told) == 1
    with only_driver("abc", str(tmp_path), told.append):
        pass


class Holders:
    """Stands for Ray where it is asked for an actor that holds a name."""

    def __init__(self, monkeypatch):
        import ray

        self.asked, self.killed = {}, []
        monkeypatch.setattr(ray, "remote", lambda **options: lambda what: self)
        monkeypatch.setattr(ray, "get_runtime_context", lambda: self)
        monkeypatch.setattr(ray, "is_initialized", lambda: True)
        monkeypatch.setattr(ray, "kill", self.killed.append)

    def get_node_id(self):
        return "ab" * 28

    def options(self, **options):
        self.asked.update(options)
        return self

    def remote(self):
        return "the holder"


@pytest.mark.parametrize("what", ["run", "sweep"])
def test_the_guard_of_the_cluster_lies_beside_the_driver(monkeypatch, tmp_path, what):
    """On another node it would end with that one, and let a second driver in."""
    from pipelines.sweeps.conduct import _only_driver_of_the_cluster

    holders = Holders(monkeypatch)
    of_a_run = only_driver("abc", str(tmp_path), print, in_cluster=True)
    with of_a_run if what == "run" else _only_driver_of_the_cluster("abc"):
        assert holders.killed == []
    assert holders.asked["scheduling_strategy"].node_id == "ab" * 28
    assert holders.asked["scheduling_strategy"].soft is False
    assert holders.asked["name"] == f"raygan-{what}-abc"
    assert holders.killed == ["the holder"]
