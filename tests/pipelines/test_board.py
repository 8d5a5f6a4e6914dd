"""What driver and ranks do while the board between them does not answer, or was started anew and has forgotten everything."""

from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import GetTimeoutError, RayActorError

from gan_core.wishes import Wish
from pipelines import board, launch, rank
from pipelines.board import Taken
from pipelines.rank import Question


class Calls:
    """A remote actor: `calls` are the methods that were called, with what they were given; `ray.get` gives what `answers` returns."""

    def __init__(self, monkeypatch, answers):
        self.calls, self.answers = [], answers
        monkeypatch.setattr(ray, "get", self.get)

    def __getattr__(self, name):
        return SimpleNamespace(remote=lambda *given: self.calls.append((name, *given)) or name)

    def get(self, name, timeout=None):
        assert timeout is not None, "nobody waits without an end"
        answer = self.answers(name)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def given(self, name):
        return [call[1:] for call in self.calls if call[0] == name]


class Clock:
    """Time that passes when it is slept."""

    now = 1000.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(launch, "time", clock)
    monkeypatch.setattr(rank, "time", clock)
    return clock


def watched():
    said = []
    return SimpleNamespace(say=said.append, show=lambda *given: None), said


@pytest.mark.parametrize("error", [GetTimeoutError("late"), RayActorError()])
def test_a_board_that_does_not_answer_is_told_waited_for_and_given_up(monkeypatch, clock, error):
    away = Calls(monkeypatch, lambda name: error)
    progress, said = watched()
    desk = launch._Desk(away, progress, None)
    assert desk.serve(Wish.NONE) is None
    clock.now += 59
    assert desk.serve(Wish.NONE) is None
    assert said == ["the workers' board on this node does not answer; it is waited for, 60 s at most"]
    away.answers = lambda name: Taken([], [], "")
    assert desk.serve(Wish.NONE) == []
    away.answers = lambda name: error
    clock.now += 10
    assert desk.serve(Wish.NONE) is None
    clock.now += 61
    with pytest.raises(RuntimeError, match="the workers' board on this node has not answered for 61 s"):
        desk.serve(Wish.NONE)
    assert len(said) == 2


def test_a_board_that_was_started_anew_is_told_the_wish_again(monkeypatch, clock):
    calls = Calls(monkeypatch, lambda name: Taken([], [], ""))
    desk = launch._Desk(calls, watched()[0], None)
    desk.serve(Wish.NONE)
    assert calls.given("want") == []
    desk.serve(Wish.STOP)
    desk.serve(Wish.STOP)
    assert calls.given("want") == [(int(Wish.STOP),)] * 2


def test_a_question_that_comes_again_is_asked_once_and_answered_alike(monkeypatch, clock):
    asked, question = [], Question(800, {"quality/kid_pixels": 0.5}, False)

    def ask(*given):
        asked.append(given)
        return False

    calls = Calls(monkeypatch, lambda name: Taken([question, question], [], ""))
    launch._Desk(calls, watched()[0], ask).serve(Wish.NONE)
    assert asked == [tuple(question)]
    assert calls.given("reply") == [(800, False)] * 2


def test_a_rank_puts_its_question_again_to_a_board_that_has_forgotten_it(monkeypatch, clock):
    calls = Calls(monkeypatch, lambda name: (None if clock.now < 1070.0 else True) if name == "answer" else None)
    question = Question(800, {}, False)
    assert rank.answered(calls, question) is True
    assert calls.given("put") == [(question,)] * 3  # at once, after 30 s and after 60 s
    assert 1070.0 <= clock.now < 1070.2


def test_a_rank_that_hears_nothing_asks_again_and_gives_up_after_a_minute(monkeypatch, clock):
    calls = Calls(monkeypatch, lambda name: RayActorError() if clock.now < 1005.0 else "fine")
    assert rank.heard(lambda: calls.attest.remote("rank 0")) == "fine"
    assert len(calls.given("attest")) == 6
    calls.answers = lambda name: RayActorError()
    with pytest.raises(RuntimeError, match="the driver's board has not answered for 60 s"):
        rank.heard(lambda: calls.attest.remote("rank 0"))


def test_ray_starts_the_board_anew_however_often():
    assert board._Board._default_options["max_restarts"] == -1
