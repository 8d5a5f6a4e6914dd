"""Who stands still, who waits for whom: from beats alone."""

import threading
import time

import pytest

from pipelines import pulse, vigil
from pipelines.board import Heard
from pipelines.pulse import DONE, TRAINING, Beat


def heard(rank, *, group="group", ranks=2, age=0.5, still=0.0, waits=False, images=8000, doing=TRAINING, place="step (steps.py:9)"):
    beat = Beat(group, rank, ranks, f"10.0.0.{rank}", "id", 70 + rank, 0.0, images, doing, place, waits, still)
    return Heard(beat, age)


def test_ranks_that_move_are_no_stall():
    found = vigil.stall([heard(0, still=300.0), heard(1, still=0.2)])
    assert found is not None
    assert found.seconds == pytest.approx(0.7)


def test_a_silent_rank_is_named_with_those_that_wait_for_it():
    found = vigil.stall([heard(0, still=90.0, waits=True, place="all_reduce (distributed.py:3)"), heard(1, age=95.0)], now=1_000_000.0)
    assert found.seconds == 95.0
    assert [each.beat.rank for each in found.culprits] == [1]
    since = time.strftime("%H:%M:%S", time.localtime(1_000_000.0 - 95.0))
    assert found.sentence == (
        f"rank 1 (node 10.0.0.1, process 71) is silent since {since}; it was training at 8.0 kimg, in step (steps.py:9); "
        f"rank 0 (node 10.0.0.0, process 70) in all_reduce (distributed.py:3) waits for it"
    )


def test_a_rank_that_stands_still_outside_a_collective_holds_the_others():
    found = vigil.stall([heard(0, still=90.0, waits=True), heard(1, still=80.0), heard(2, still=91.0, waits=True)])
    assert found.seconds == pytest.approx(80.5)
    assert [each.beat.rank for each in found.culprits] == [1]
    assert "rank 1 (node 10.0.0.1, process 71) stands still since" in found.sentence
    assert "rank 2 (node 10.0.0.2, process 72) in step (steps.py:9) wait for it" in found.sentence


def test_where_all_wait_for_each_other_the_one_behind_holds_them_else_all():
    behind = vigil.stall([heard(0, still=90.0, waits=True), heard(1, still=90.0, waits=True, images=7000)])
    assert [each.beat.rank for each in behind.culprits] == [1]
    alike = vigil.stall([heard(0, still=90.0, waits=True), heard(1, still=90.0, waits=True)])
    assert [each.beat.rank for each in alike.culprits] == [0, 1]


def test_ranks_that_are_done_are_neither_silent_nor_waited_for():
    assert vigil.stall([heard(0, age=900.0, doing=DONE, waits=True), heard(1, age=900.0, doing=DONE, waits=True)]) is None
    found = vigil.stall([heard(0, age=900.0, doing=DONE, waits=True), heard(1, still=50.0)])
    assert [each.beat.rank for each in found.culprits] == [1]
    assert found.seconds == pytest.approx(50.5)


def looked_at(function):
    """What the stack of a thread that runs `function` says, while it is in there."""
    inside, leave, seen = threading.Event(), threading.Event(), []

    def body():
        function(lambda: (inside.set(), leave.wait(30.0)))

    thread = threading.Thread(target=body)
    thread.start()
    assert inside.wait(60.0)
    import sys

    seen.append(pulse.view(sys._current_frames()[thread.ident]))
    leave.set()
    thread.join()
    return seen[0]


def test_a_stack_says_what_a_rank_does():
    from gan_core import Trainer
    from tests.support import tiny_config

    def train(pause):
        trainer = Trainer(tiny_config())
        step = trainer.step_discriminator
        trainer.step_discriminator = lambda **given: (pause(), step(**given))[1]
        trainer.run(lambda report: None)

    found = looked_at(train)
    assert found.doing == TRAINING
    assert found.place.startswith("_round (trainer.py:")
    assert not found.waits


def test_a_stack_says_that_a_rank_evaluates(monkeypatch):
    from gan_core import Trainer, evaluation
    from tests.support import tiny_config

    def train(pause):
        score = evaluation.score
        monkeypatch.setattr(evaluation, "score", lambda *given: score(*given) if pause() else None)
        Trainer(tiny_config()).run(lambda report: None)

    assert looked_at(train).doing == "evaluating"
