"""What one member's fault, or its going back, may do to the others: nothing."""

import copy

import torch

from gan_core.population import Population
from gan_core.population.engine import Engine
from tests.support import tiny_trainer


def test_a_member_that_cannot_be_given_its_own_tensors_does_not_hold_up_the_others(monkeypatch):
    removes, failed = Engine.remove, []

    def remove(engine, trainer):
        removes(engine, trainer)
        if not failed:
            failed.append(trainer)
            raise RuntimeError("no memory for copies")

    monkeypatch.setattr(Engine, "remove", remove)
    trainers = [tiny_trainer(seed=0, total_kimg=0.064), tiny_trainer(seed=1)]
    reports = [[], []]
    errors = Population(2).run(trainers, [told.append for told in reports])
    assert [str(error) for error in errors if error is not None] == ["no memory for copies"]
    assert reports[1][-1].done


def test_a_member_may_load_a_state_from_before_the_first_step():
    fresh = copy.deepcopy(tiny_trainer(seed=0).state_dict())
    trainers = [tiny_trainer(seed=seed) for seed in range(2)]
    went_back = []

    def report(told):
        if told.images_seen and not told.done and not went_back:
            went_back.append(told.images_seen)
            trainers[0].load_state_dict(fresh)

    assert Population(2).run(trainers, [report, lambda _: None]) == [None, None]
    alone = tiny_trainer(seed=0)
    alone.run(lambda _: None)
    assert went_back
    for mine, theirs in zip(trainers[0].parts.g.parameters, alone.parts.g.parameters, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_the_relativistic_loss_leaves_the_last_bias_exactly_where_it_is_in_a_pack_too():
    """Its gradients for reals and for fakes cancel; in float32 and with a batch that is no power of two a single sum would not be 0."""
    options = {"batch_size": 48, "precision": "float32", "total_kimg": 4.8}
    trainers = [tiny_trainer(**options, loss__name=loss) for loss in ("relativistic", "hinge")]
    before = [trainer.parts.d.network.logit.bias.item() for trainer in trainers]
    assert Population(2).run(trainers, [lambda _: None] * 2) == [None, None]
    after = [trainer.parts.d.network.logit.bias.item() for trainer in trainers]
    assert after[0] == before[0]
    assert after[1] != before[1]
