"""What a rank sends with its beats, without Ray: where it waits, and its reports, each once and in order, whatever becomes of a beat."""

import sys
import threading
import time
from types import SimpleNamespace

import pytest
import ray.train
import torch
from ray.exceptions import GetTimeoutError, RayError

from gan_core import distributed
from pipelines import pulse as pulses
from pipelines.pulse import DONE, KEPT, Pulse, Reports, view

FIRST, SECOND = (100, {"d/loss": 1.0, "quality/kid_pixels": 0.5}), (200, {"d/loss": 2.0})


def test_a_rank_waits_for_the_others_while_sums_are_on_their_way_and_not_while_it_works_on_them(monkeypatch):
    seen = {}

    def note(name):
        seen[name] = view(sys._getframe(2))

    class Work(torch.distributed.Work):
        def wait(self):
            note("waits")

    bucket = SimpleNamespace(flat=SimpleNamespace(div_=lambda _: note("works")), work=Work(), buffers=[], sums=[])
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "_send", lambda tensors: bucket)
    distributed.average_over_ranks([torch.nn.Parameter(torch.ones(2))], [])
    assert seen["waits"].waits
    assert seen["waits"].place.startswith("wait_for_sum (distributed.py:")
    assert not seen["works"].waits
    assert seen["works"].place.startswith("average_over_ranks (distributed.py:")


def test_reports_wait_in_their_order_and_those_that_could_not_be_sent_come_before_newer_ones():
    reports = Reports()
    assert reports.take() == []
    reports.add(*FIRST)
    taken = reports.take()
    reports.add(*SECOND)
    reports.give_back(taken)
    assert reports.take() == [FIRST, SECOND]
    reports.give_back([])
    assert reports.take() == []


def test_of_too_many_reports_the_oldest_become_one_with_the_newest_of_every_value():
    reports = Reports()
    reports.add(*FIRST)
    for count in range(1, KEPT + 5):
        reports.add(100 + count, {"d/loss": float(count)})
    taken = reports.take()
    assert len(taken) == KEPT
    assert taken[0] == (105, {"d/loss": 5.0, "quality/kid_pixels": 0.5})
    assert taken[1:] == [(100 + count, {"d/loss": float(count)}) for count in range(6, KEPT + 5)]
    reports.give_back(taken)
    reports.add(999, {})
    assert [images for images, _ in reports.take()] == [*range(106, 105 + KEPT), 999]


def test_no_report_is_lost_or_overtaken_where_one_thread_reports_and_another_gives_back(monkeypatch):
    monkeypatch.setattr(pulses, "KEPT", 10**9)
    switching = sys.getswitchinterval()
    reports, count, ended, seen = Reports(), 5000, threading.Event(), []

    def failing_beats():
        while not ended.is_set():
            taken = reports.take()
            seen.append([images for images, _ in taken])
            reports.give_back(taken)

    thread = threading.Thread(target=failing_beats)
    try:
        sys.setswitchinterval(1e-6)
        thread.start()
        for images in range(count):
            reports.add(images, {})
    finally:
        ended.set()
        thread.join()
        sys.setswitchinterval(switching)
    assert [images for images, _ in reports.take()] == list(range(count))
    assert all(images == list(range(len(images))) for images in seen)


class Board:
    """Notes what it is told, in order. `answers` are called for beats with reports, one each; all others are answered at once."""

    def __init__(self, *answers):
        self.told, self.exported = [], []
        self.answers = iter(answers)
        self.beat = SimpleNamespace(remote=self._beat)
        self.put = SimpleNamespace(remote=self.told.append)

    def _beat(self, beat, shown):
        self.told += [*shown, DONE] if beat.doing == DONE else shown
        return next(self.answers) if shown else lambda: 0

    def get(self, answer, timeout):
        assert timeout == pulses.ANSWER_SECONDS
        return answer()

    def export(self, *shown):
        self.exported.append(shown)


def raising(error):
    def answer():
        raise error

    return answer


@pytest.fixture
def beating(monkeypatch):
    """Makes a pulse with its thread, for a board."""
    context = SimpleNamespace(get_placement_group_id=lambda: "group", get_node_id=lambda: "node")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(ray.train, "get_context", lambda: SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1))
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(pulses, "BEAT_SECONDS", 0.01)
    made = []

    def make(board):
        monkeypatch.setattr(ray, "get", board.get)
        made.append(Pulse(board))
        made[0].export = board.export
        return made[0]

    yield make
    made[0]._ended.set()


def until(condition):
    give_up_at = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)


def test_beats_carry_every_report_and_export_the_newest_values_of_those_that_arrived(beating):
    board = Board(raising(RayError()), raising(GetTimeoutError()), lambda: 0)
    pulse = beating(board)
    pulse._reports.give_back([FIRST, SECOND])
    until(lambda: board.exported)
    assert board.told == [FIRST, SECOND] * 3
    assert board.exported == [(200, {"d/loss": 2.0, "quality/kid_pixels": 0.5})]


@pytest.mark.parametrize("fails", [False, True])
def test_the_last_reports_are_sent_and_exported_after_those_of_the_beat_on_its_way(beating, fails):
    late = threading.Event()

    def answer():
        assert late.wait(20)
        time.sleep(0.1)
        if fails:
            raise RayError
        return 0

    board = Board(answer)
    pulse = beating(board)
    pulse.show(*FIRST)
    until(lambda: board.told)
    pulse.show(*SECOND)
    threading.Timer(0.1, late.set).start()
    pulse.finish()
    pulse.stop()
    assert not pulse._beats.is_alive()
    assert board.told == [FIRST, FIRST, SECOND, DONE] if fails else board.told == [FIRST, SECOND, DONE]
    assert board.exported == ([(200, {**FIRST[1], **SECOND[1]})] if fails else [FIRST, SECOND])


def test_a_beat_that_never_ends_holds_the_end_up_for_a_while_only(beating, monkeypatch):
    monkeypatch.setattr(pulses, "STOP_SECONDS", 0.1)
    never = threading.Event()
    board = Board(lambda: int(never.wait(20)))
    pulse = beating(board)
    pulse.show(*FIRST)
    until(lambda: board.told)
    pulse.show(*SECOND)
    started = time.monotonic()
    pulse.stop()
    assert 0.1 <= time.monotonic() - started < 10
    assert board.told == [FIRST, SECOND]
    never.set()
    pulse._beats.join(20)


def test_gauges_that_fail_are_told_once_and_the_beats_go_on(beating):
    board = Board(lambda: 0, lambda: 0)
    pulse = beating(board)
    pulse.export = lambda *_: raising(ValueError("no such label"))()
    pulse.show(*FIRST)
    until(lambda: len(board.told) == 2)
    pulse.show(*SECOND)
    until(lambda: len(board.told) == 3)
    assert board.told == [FIRST, "the gauges of this run are not its latest: ValueError: no such label", SECOND]
    assert pulse._beats.is_alive()
    pulse.show(*FIRST)
    pulse.stop()
    assert board.told[3:] == [FIRST]


def test_reports_are_not_lost_where_the_thread_that_trains_has_ended(beating, monkeypatch):
    board = Board()
    pulse = beating(board)
    monkeypatch.setattr(pulse, "_look", raising(OSError()))
    until(lambda: not pulse._beats.is_alive())
    monkeypatch.setattr(pulse, "_beats", threading.Thread(target=pulse._beat))
    pulse.show(*FIRST)
    pulse._beats.start()
    pulse.stop()
    assert board.told == [FIRST]
