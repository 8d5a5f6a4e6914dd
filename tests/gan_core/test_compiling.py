import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.support import tiny_trainer


class Wrong(nn.Module):
    """What a compiler that errs might make of a network."""

    def __init__(self, network, factor):
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, *given):
        return self.network(*given) * self.factor


@pytest.mark.parametrize(("factor", "fine"), [(1.0 + 1e-5, True), (1.0 + 1e-2, False), (float("nan"), False)])
def test_what_differs_from_the_network_is_refused_with_the_difference(monkeypatch, factor, fine):
    monkeypatch.setattr(torch, "compile", lambda network, **options: Wrong(network, factor))
    if fine:
        trainer = tiny_trainer(speed__compile=True)
        assert isinstance(trainer.parts.g.call, Wrong)
        assert not isinstance(trainer.parts.g.network, Wrong)
        trainer.run(lambda report: None)
    else:
        with pytest.raises(ValueError, match=r"speed.compile: the compiled generator differs from the generator: .* by (inf|0.02)"):
            tiny_trainer(speed__compile=True)


class Float32(nn.Module):
    """The network without autocast, with outputs of the type that it has."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, *given):
        with torch.autocast("cpu", enabled=False):
            return self.network(*given)


def test_bfloat16_is_allowed_what_bfloat16_loses_though_images_are_float32(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network, **options: Float32(network))
    network = {"network__name": "dcgan", "network__generator__width": 8, "network__discriminator__width": 8, "network__conditional": True}
    trainer = tiny_trainer(speed__compile=True, precision="bfloat16", **network)
    images = trainer.parts.g.network(trainer.supply.z("d", 0), trainer.supply.real("d", 0).labels)
    assert images.dtype == torch.float32
    assert isinstance(trainer.parts.d.call, Float32)


def test_the_check_takes_as_many_images_at_once_as_training_does(monkeypatch):
    sizes = []

    def compiles(network, **options):
        network.register_forward_hook(lambda _, given, output: sizes.append(len(given[0])))
        return Wrong(network, 1.0)

    monkeypatch.setattr(torch, "compile", compiles)
    tiny_trainer(speed__compile=True, batch_size=16, accumulation_steps=4)
    assert set(sizes) == {4}


def test_a_compiler_that_fails_is_named_before_training(monkeypatch):
    class Broken(nn.Module):
        def forward(self, *given):
            raise RuntimeError("no compiler\nand much more")

    monkeypatch.setattr(torch, "compile", lambda network, **options: Broken())
    with pytest.raises(ValueError, match=r"the generator cannot be compiled here: no compiler$"):
        tiny_trainer(speed__compile=True)


@pytest.mark.parametrize("options", [{"network__discriminator__dropout": 0.5}, {"loss__name": "mmd"}])
def test_what_cannot_be_checked_is_refused(options):
    with pytest.raises(ValueError, match=r"speed\.compile"):
        tiny_trainer(speed__compile=True, **options)


# In a process without the checks of shapes that tests have around each function: a compiler cannot see through them.
RUNS = """
import sys, torch
from gan_core.overrides import parse
from tests.support import tiny_trainer

options = dict(parse(word) for word in sys.argv[1:])
compiled, plain = (tiny_trainer(speed__compile=on, precision="float64", **options) for on in (True, False))
assert compiled.parts.g.compiled is not None and plain.parts.g.compiled is None
for trainer in (compiled, plain):
    trainer.run(lambda report: None)
for mine, theirs in zip(compiled.parts.g.parameters, plain.parts.g.parameters, strict=True):
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
"""


@pytest.mark.slow  # compiles C++ for half a minute to a minute and a half
@pytest.mark.parametrize("words", [[], ["variant=wgan_gp"]], ids=["mlp", "with second derivatives"])
def test_a_compiled_run_is_the_run(words):
    done = subprocess.run([sys.executable, "-c", RUNS, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
