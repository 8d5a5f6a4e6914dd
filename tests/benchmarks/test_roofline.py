"""Counts of operations and bytes against sums on paper; the floor's steps against the trainer's."""

import pytest
import torch
from torch import nn

from gan_core import Trainer
from tests.benchmarks import cases, floor, roofline


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("images")


def test_operations_of_layers_are_those_of_the_formula():
    linear, images = nn.Linear(30, 40), torch.randn(8, 30)
    assert roofline.flops_of(lambda: linear(images)) == 2 * 8 * 30 * 40
    # Backward: the weight's gradient; the images need none.
    assert roofline.flops_of(lambda: linear(images).sum().backward()) == 2 * (2 * 8 * 30 * 40)
    layer, images = nn.Conv2d(6, 10, 3, padding=1, groups=2), torch.randn(4, 6, 16, 16, requires_grad=True)
    forward = 2 * 4 * 16 * 16 * 10 * 3 * 9
    assert roofline.flops_of(lambda: layer(images)) == forward
    assert roofline.flops_of(lambda: layer(images).sum().backward()) == 3 * forward
    upward = nn.ConvTranspose2d(6, 10, 4, 2, 1)
    assert roofline.flops_of(lambda: upward(images)) == 2 * 4 * 16 * 16 * 10 * 6 * 16  # each input place meets each weight


def test_what_is_saved_counts_each_storage_once():
    first, second, inputs = nn.Linear(30, 40, bias=False), nn.Linear(40, 1, bias=False), torch.randn(8, 30)
    parameters = [first.weight, second.weight]
    # The inputs, and the ReLU's result, which the ReLU and the second layer both save.
    found = roofline.saved_bytes(lambda: second(first(inputs).relu()).sum().backward(), beside=parameters)
    assert found == 4 * (8 * 30 + 8 * 40)


def test_a_floor_is_set_by_the_slower_of_arithmetic_and_memory():
    rates = roofline.Rates(flops=100.0, bytes=10.0)
    assert roofline.floor_seconds(roofline.Work(1000, 50), rates) == 10.0
    assert roofline.floor_seconds(roofline.Work(1000, 500), rates) == 50.0


def test_the_work_of_an_mlp_is_what_a_hand_counts(folder):
    words = ["batch_size=4", "network.generator.hidden_layers=1", "network.discriminator.hidden_layers=1"]
    loop = floor.Floor(cases.config("mlp", folder, words), "cpu", joint=False, channels_last=False)
    found = roofline.work_of(loop)
    pixels, width, z, batch = 784, 256, 64, 4
    generate, judge = 2 * batch * (z * width + width * pixels), 2 * batch * (pixels * width + width)
    # D: fakes; both passes forward; their weights' gradients; the slope of the hidden layer, and none of the images.
    assert found["d"].flops == generate + 2 * judge + 2 * judge + 2 * 2 * batch * width
    # G: fakes and their judgement; slopes of all but z, gradients of G's weights alone.
    assert found["g"].flops == generate + judge + (2 * batch * width * pixels + judge) + generate
    g, d = z * width + width + width * pixels + pixels, pixels * width + width + width + 1
    fixed = 4 * (8 * d + g)
    # Saved in D's step for each side: the images, the hidden layer before and after its leaky ReLU, the logits.
    saved = 4 * 2 * batch * (pixels + 2 * width + 1)
    assert found["d"].bytes == pytest.approx(fixed + 2 * saved, rel=0.002)


def test_rates_are_those_of_the_machine():
    cpu = torch.device("cpu")
    assert 1e8 < roofline.matrix_rate(cpu, torch.float32, repeats=1) < 1e14
    assert 1e8 < roofline.memory_rate(cpu, 2**20, repeats=1) < 1e13


SMALL = {
    "mlp": [],
    "dcgan-32": ["network.generator.width=8", "network.discriminator.width=8"],
    "sngan-32": ["network.generator.width=4", "network.discriminator.width=4"],
    "r3gan-32": [],
    "stylegan2-32": ["regularizers.r1_interval=1"],
}


@pytest.mark.parametrize("case", SMALL)
def test_the_floor_s_steps_have_the_trainer_s_gradients_each_way(case, folder):
    config = cases.config(case, folder, ["batch_size=8", *SMALL[case]])
    for way in floor.ways(config):
        trainer, loop = Trainer(config, device="cpu", evaluates=False), floor.Floor(config, "cpu", **way)
        for player, step, parts, network in (
            ("d", "step_discriminator", trainer.parts.d, loop.discriminator),
            ("g", "step_generator", trainer.parts.g, loop.generator),
        ):
            z, real = trainer.supply.z(player, 0), trainer.supply.real(player, 0).inputs
            loop.fake = lambda loop=loop, z=z: loop.generator(z)
            loop.real = lambda real=real: real.clone()
            getattr(loop, step)()
            getattr(trainer, step)()
            for ours, theirs in zip(network.parameters(), parts.parameters, strict=True):
                torch.testing.assert_close(ours.grad, theirs.grad, rtol=2e-3, atol=2e-5, msg=lambda text, way=way: f"{way}: {text}")


def test_the_floor_refuses_what_it_does_not_do(folder):
    with pytest.raises(ValueError, match="the floor knows"):
        floor.Floor(cases.config("mlp", folder, ["variant=wgan_gp"]), "cpu", joint=False, channels_last=False)
