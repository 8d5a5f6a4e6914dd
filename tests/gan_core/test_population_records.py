"""What was recorded of a member's steps before it was packed, or between two packs, is not replayed on memory that it has no more."""

import torch

from gan_core.population.engine import Engine
from gan_core.taking import taking
from tests.gan_core.tape import TapeRecorder
from tests.support import tiny_trainer

ROUNDS = 9  # of which the first are taken as written, to warm up


def test_a_member_that_comes_and_goes_replays_no_steps_of_before():
    written, moved = (tiny_trainer(precision="float64") for _ in range(2))
    other = tiny_trainer(precision="float64", seed=1)
    recorder = TapeRecorder()
    moved.taking = taking(
        moved.config.model_copy(update={"speed": moved.config.speed.model_copy(update={"cuda_graphs": True})}), moved.parts, recorder
    )
    engine = Engine()
    engine.add(moved)
    move(engine)
    assert recorder.tapes
    engine.add(other)
    move(engine)
    assert engine.packs
    engine.remove(other)
    move(engine)
    assert engine.alone == [moved]
    for _ in range(3 * ROUNDS):
        written._round()
    expected = [*written.parts.g.network.parameters(), *written.parts.d.network.parameters()]
    for mine, theirs in zip([*moved.parts.g.network.parameters(), *moved.parts.d.network.parameters()], expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def move(engine):
    for _ in range(ROUNDS):
        assert all(error is None for _, error in engine.tick(lambda _: False))
