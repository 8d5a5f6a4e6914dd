"""A thread of a population that waits for something outside, and what the population says of its own end."""

import threading

import pytest

from gan_core.population import Population
from tests.support import tiny_trainer


def test_others_have_their_turn_while_one_waits_outside_and_no_round_is_taken_without_it():
    population, seen = Population(2), []
    came_back, other_is_ready = threading.Event(), threading.Event()

    def waiting():
        with population.seat():
            trainer = tiny_trainer(seed=0)
            population.join(trainer)

            def report(report):
                if report.images_seen == 32:
                    with population.aside():
                        assert other_is_ready.wait(20)
                        seen.append(("other", other.images_seen))
                        came_back.set()

            trainer.run(report)

    def working():
        with population.seat():
            population.join(other)
            other.run(lambda report: other_is_ready.set() if report.images_seen == 32 else None)

    other = tiny_trainer(seed=1)
    threads = [threading.Thread(target=target, daemon=True) for target in (waiting, working)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert came_back.is_set()
    assert seen == [("other", 32)]
    assert other.images_seen == 160


def test_a_population_says_what_ended_it(monkeypatch):
    population = Population(1)

    def full(_):
        raise MemoryError("full")
        yield

    monkeypatch.setattr(population._engine, "tick", full)
    assert population.failure is None
    (error,) = population.run([tiny_trainer()], [lambda report: None])
    assert str(population.failure) == "full"
    assert "full" in str(error)


def test_a_member_s_own_error_does_not_end_the_population():
    population = Population(1)

    def report(_):
        raise ValueError("mine")

    (error,) = population.run([tiny_trainer()], [report])
    assert str(error) == "mine"
    assert population.failure is None


def test_losses_that_take_turns_among_the_members_are_each_reported_for_its_own():
    """At two ratios two losses lie as 0 1 0 1 in the stacks: the order that groups them is its own inverse."""
    runs = [{"loss__name": loss, "step_ratio": ratio} for loss in ("hinge", "wasserstein") for ratio in ("1:1", "2:1")]
    trainers = [tiny_trainer(precision="float64", **options) for options in runs]
    together = [[] for _ in runs]
    assert Population(4).run(trainers, [reports.append for reports in together]) == [None] * 4
    for options, reports in zip(runs, together, strict=True):
        alone = []
        tiny_trainer(precision="float64", **options).run(alone.append)
        for key in ("d/loss", "g/loss"):
            expected = [report.metrics[key] for report in alone if key in report.metrics]
            assert [report.metrics[key] for report in reports if key in report.metrics] == pytest.approx(expected, rel=1e-9)
