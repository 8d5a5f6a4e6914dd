"""What a rank sends with its beats, without Ray: where it waits, and of several reports between two beats the newest values."""

import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from ray.exceptions import RayError

from gan_core import distributed
from gan_core.wishes import Wish
from pipelines.pulse import Pulse, Reports, view


def test_a_rank_that_waits_for_sums_on_their_way_waits_for_the_other_ranks(monkeypatch):
    seen = []

    class Work:
        def wait(self):
            seen.append(view(sys._getframe(1)))

    bucket = distributed._Sent(torch.ones(2), Work(), [], [])
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "_send", lambda tensors: bucket)
    distributed.average_over_ranks([torch.nn.Parameter(torch.ones(2))], [])
    assert seen[0].waits
    assert seen[0].place.startswith("average_over_ranks (distributed.py:")


def test_reports_between_two_beats_become_one_with_the_newest_of_every_value():
    reports = Reports()
    assert reports.take() is None
    reports.add(100, {"d/loss": 1.0, "quality/kid_pixels": 0.5})
    reports.add(200, {"d/loss": 2.0})
    assert reports.take() == (200, {"d/loss": 2.0, "quality/kid_pixels": 0.5})
    assert reports.take() is None


def test_reports_that_could_not_be_sent_are_sent_later_unless_there_are_newer_values():
    reports = Reports()
    reports.add(100, {"d/loss": 1.0, "quality/kid_pixels": 0.5})
    taken = reports.take()
    reports.add(200, {"d/loss": 2.0})
    reports.give_back(taken)
    assert reports.take() == (200, {"d/loss": 2.0, "quality/kid_pixels": 0.5})
    reports.give_back(None)
    assert reports.take() is None


class Board:
    """Notes its calls, and answers as `ray.get` is told to."""

    def __init__(self):
        self.beats, self.puts = [], []
        self.beat = SimpleNamespace(remote=lambda beat, shown: self.beats.append(shown))
        self.put = SimpleNamespace(remote=self.puts.append)


@pytest.fixture
def pulse():
    """A pulse without a thread."""
    pulse = object.__new__(Pulse)
    pulse._board, pulse._reports, pulse._ended, pulse._look = Board(), Reports(), threading.Event(), lambda: None
    pulse.exported = []
    pulse.export = lambda *shown: pulse.exported.append(shown)
    return pulse


def test_a_beat_carries_what_was_reported_and_exports_what_arrived(pulse, monkeypatch):
    answers = iter([RayError(), 0])

    def get(_, timeout):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        pulse._ended.set()
        return answer

    monkeypatch.setattr("ray.get", get)
    monkeypatch.setattr("pipelines.pulse.BEAT_SECONDS", 0.0)
    pulse.show(100, {"d/loss": 1.0})
    pulse._beat()
    assert pulse._board.beats == [(100, {"d/loss": 1.0})] * 2
    assert pulse.exported == [(100, {"d/loss": 1.0})]
    assert pulse.wish is Wish.NONE


def test_what_was_reported_last_is_sent_and_exported_when_beats_end(pulse):
    pulse.show(100, {"d/loss": 1.0})
    pulse.show(200, {"d/loss": 2.0})
    pulse.stop()
    pulse.stop()
    assert pulse._board.puts == pulse.exported == [(200, {"d/loss": 2.0})]
