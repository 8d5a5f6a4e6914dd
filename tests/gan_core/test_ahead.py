import pytest
import torch

from gan_core.ahead import Ahead
from gan_core.building import resident
from tests.support import tiny_trainer

CPU = torch.device("cpu")


def test_the_next_steps_images_are_fetched_while_this_one_trains_and_each_once():
    trainer = tiny_trainer()
    asked = []

    def gather(places):
        asked.append(places.tolist())
        return trainer.parts.dataset.gathered(places)

    parts = trainer.parts
    trainer.parts = parts._replace(ahead=Ahead(gather, CPU))
    plain = tiny_trainer()
    for step in (0, 1, 2):
        assert torch.equal(trainer.supply.real("d", step).inputs, plain.supply.real("d", step).inputs)
    trainer.parts.ahead._thread.shutdown()
    assert asked == [plain.supply._places("d/real", step).tolist() for step in range(4)]


def test_another_step_than_the_next_gets_its_own_images():
    trainer, plain = tiny_trainer(), tiny_trainer()
    trainer.parts = trainer.parts._replace(ahead=Ahead(trainer.parts.dataset.gathered, CPU))
    for player, step in (("d", 5), ("g", 0), ("d", 2), ("d", 3), ("g", 1), ("d", 3)):
        assert torch.equal(trainer.supply.real(player, step).inputs, plain.supply.real(player, step).inputs)


def test_a_run_that_fetches_ahead_is_the_run_that_does_not():
    fetching, plain = tiny_trainer(), tiny_trainer()
    fetching.parts = fetching.parts._replace(ahead=Ahead(fetching.parts.dataset.gathered, CPU))
    for trainer in (fetching, plain):
        trainer.run(lambda report: None)
    for mine, theirs in zip(fetching.parts.g.parameters, plain.parts.g.parameters, strict=True):
        assert torch.equal(mine, theirs)


def test_images_that_are_on_the_device_come_from_there():
    dataset = tiny_trainer().parts.dataset
    assert resident(dataset, CPU, asked=None) is dataset  # a CPU's memory is where they are
    with pytest.raises(ValueError, match=r"speed\.data_on_device: keeps pixels on a GPU, and this run has cpu; set it to null"):
        resident(dataset, CPU, asked=True)
    kept = dataset.images.clone()
    there = dataset.__class__(**{**vars(dataset), "images": torch.zeros_like(dataset.images), "resident": kept})
    chosen = torch.tensor([3, 0, 7])
    expected = dataset.batch(chosen, CPU, torch.float32, labelled=False).inputs
    assert torch.equal(there.batch(chosen, CPU, torch.float32, labelled=False).inputs, expected)
    assert torch.equal(there.resident, dataset.images)
