import pytest
import torch
from torch import nn

from gan_core.spectral import LAYERS, spectrally_normalised
from tests.gan_core.test_networks import make
from tests.support import tiny_trainer


class Every(nn.Module):
    """One layer of each kind, far from spectral norm 1; the embedding inside another module."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.transposed = nn.ConvTranspose2d(6, 4, 4, stride=2, padding=1)
        self.norm = nn.LayerNorm(4 * 8 * 8)
        self.linear = nn.Linear(4 * 8 * 8, 5)
        self.classes = nn.Sequential(nn.Embedding(7, 5))
        with torch.no_grad():
            for scale, layer in zip((0.02, 3.0, 0.1, 20.0), self.layers().values()):
                layer.weight.mul_(scale)

    def layers(self):
        return {"convolution": self.convolution, "transposed": self.transposed, "linear": self.linear, "classes.0": self.classes[0]}

    def forward(self, images, labels):
        features = self.norm(self.transposed(self.convolution(images)).flatten(1))
        return (self.linear(features) * self.classes(labels)).sum(1)


IMAGES, LABELS = torch.linspace(-1, 1, 2 * 3 * 64).sin().view(2, 3, 8, 8), torch.tensor([0, 6])


def singular_value(name, weight):
    """The largest of the weight as a matrix of its outputs by everything else; a transposed convolution's outputs come second."""
    matrix = weight.transpose(0, 1) if name == "transposed" else weight
    return torch.linalg.matrix_norm(matrix.flatten(1), ord=2).item()


def test_every_kind_of_layer_gets_the_largest_singular_value_one():
    network = Every()
    before = {name: layer.weight.detach().clone() for name, layer in network.layers().items()}
    assert {type(layer) for layer in network.layers().values()} == set(LAYERS)
    assert spectrally_normalised(network) is network
    for _ in range(60):
        network(IMAGES, LABELS)
    for name, layer in network.layers().items():
        assert not 0.5 < singular_value(name, before[name]) < 2.0
        assert singular_value(name, layer.weight) == pytest.approx(1.0, abs=2e-3), name
        scale = singular_value(name, before[name])
        torch.testing.assert_close(layer.weight, before[name] / scale, rtol=3e-3, atol=1e-6)


def test_a_layer_is_near_one_from_the_first_forward_pass_on():
    network = spectrally_normalised(Every())
    network(IMAGES, LABELS)
    for name, layer in network.layers().items():
        assert singular_value(name, layer.weight) == pytest.approx(1.0, abs=0.1), name


def test_the_norm_follows_weights_that_change():
    network = spectrally_normalised(Every())
    parameters = list(network.parameters())
    before = network.linear.weight.detach().clone()
    for _ in range(30):
        gradients = torch.autograd.grad(network(IMAGES, LABELS).sum(), parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients):
                parameter.sub_(0.5 * gradient)
    assert not torch.allclose(network.linear.weight, before, atol=0.05)
    for name, layer in network.layers().items():
        assert singular_value(name, layer.weight) == pytest.approx(1.0, abs=0.05), name


def test_layers_without_a_matrix_and_biases_stay_as_they_are():
    plain, normalised = Every(), spectrally_normalised(Every())
    assert torch.equal(normalised.norm.weight, plain.norm.weight)
    assert torch.equal(normalised.linear.bias, plain.linear.bias)


def test_the_iterates_are_in_the_state_and_a_copy_continues_alike():
    network = spectrally_normalised(Every())
    for _ in range(3):
        network(IMAGES, LABELS)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    buffers = {f"{name}.parametrizations.weight.0._{side}" for name in network.layers() for side in "uv"}
    assert buffers == {name for name, _ in network.named_buffers()}
    assert buffers <= state.keys()
    copy = spectrally_normalised(Every())
    copy.load_state_dict(state)
    assert torch.equal(copy(IMAGES, LABELS), network(IMAGES, LABELS))
    for key, value in network.state_dict().items():
        assert torch.equal(copy.state_dict()[key], value), key


def test_only_forward_passes_in_training_change_the_iterates():
    network = spectrally_normalised(Every()).eval()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    first = network(IMAGES, LABELS)
    assert torch.equal(network(IMAGES, LABELS), first)
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    network.train()(IMAGES, LABELS)
    assert all(not torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


def test_a_conditional_discriminator_whose_classes_start_at_zero_is_finite():
    trainer = tiny_trainer(network__conditional=True, regularizers__spectral_norm=True)
    trainer._round()
    embedding = trainer.parts.d.network.embedding.weight
    assert torch.linalg.matrix_norm(embedding, 2).item() == pytest.approx(1.0, rel=0.05)
    assert all(parameter.isfinite().all() for parameter in trainer.parts.d.parameters)


def test_layers_of_another_kind_are_refused_rather_than_passed_over():
    _, discriminator = make("stylegan2")
    with pytest.raises(ValueError, match="spectral_norm: the discriminator's layer from_rgb is a EqualisedConv, which it cannot normalise"):
        spectrally_normalised(discriminator)
