"""A generator as files: what is read is what was written, and nothing that lies there is run."""

import json
import pickle
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gan_core import portable, registry, sampling
from gan_core.data import digits
from gan_core.overrides import dumps, load, merge
from gan_core.portable import CONFIG, SUMS, WEIGHTS, Description, Portable
from tests.support import tiny_config


@pytest.fixture
def made(tmp_path):
    """A folder with a generator, and the generator."""
    config, dataset = tiny_config(network__conditional=True), digits.load()
    shape = portable.shape_of(config, dataset)
    assert (shape.resolution, shape.channels, shape.num_classes, shape.points) == (8, 1, 10, False)
    from gan_core.building import build_networks

    generator, _ = build_networks(config, dataset)
    folder = tmp_path / "generator"
    folder.mkdir()
    portable.save(folder, Portable(generator, Description(shape=shape, images_seen=160, content_hash=dataset.content_hash, gan=config)))
    return folder, generator


def rewrite(folder, name, content):
    """Change a file and its checksum, as one would who means harm."""
    (folder / name).write_bytes(content)
    sums = json.loads((folder / SUMS).read_text())
    (folder / SUMS).write_text(json.dumps({**sums, name: sha256(content).hexdigest()}))


def test_what_is_read_is_what_was_written(made):
    folder, generator = made
    found = portable.read(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(portable.FILES)
    z, labels = sampling.latents_of_seeds(0, 5, z_dim=8), torch.arange(5)
    assert torch.equal(found.generator(z, labels), generator.eval()(z, labels))
    assert found.description.images_seen == 160
    assert found.description.gan == tiny_config(network__conditional=True)
    assert not any(parameter.requires_grad for parameter in found.generator.parameters())


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_changed_file_is_refused(made, name):
    folder, _ = made
    content = bytearray((folder / name).read_bytes())
    content[-10] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"damaged: {name} does not have the checksum"):
        portable.read(folder)


class Harm:
    """A pickle of it leaves a mark when it is loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_a_pickle_in_place_of_the_weights_is_not_loaded(made, tmp_path):
    folder, _ = made
    mark = tmp_path / "mark"
    harmful = pickle.dumps(Harm(mark))
    rewrite(folder, WEIGHTS, harmful)
    with pytest.raises(ValueError, match="is not a safetensors file"):
        portable.read(folder)
    assert not mark.exists()
    pickle.loads(harmful)
    assert mark.exists()  # it would have been


def test_yaml_that_makes_objects_is_not_obeyed(made, tmp_path):
    folder, _ = made
    mark = tmp_path / "mark"
    rewrite(folder, CONFIG, f"version: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{mark}']]".encode())
    with pytest.raises(ValueError, match="is not valid YAML"):
        portable.read(folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", portable.FILES)
def test_a_link_is_not_followed(made, tmp_path, name):
    folder, _ = made
    elsewhere = (folder / name).replace(tmp_path / "elsewhere")
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(ValueError, match=f"{name} is a link"):
        portable.read(folder)


@pytest.mark.parametrize("name", portable.FILES)
def test_a_missing_file_is_named(made, name):
    folder, _ = made
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"has no {name}"):
        portable.read(folder)


def test_a_folder_of_pickles_is_refused_by_name(tmp_path):
    (tmp_path / "model.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match=r"not one of raygan's generators.*model.pkl.* may hold code, and is not loaded"):
        portable.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gan.network.name": "os"}, "unknown network name 'os'"),
        ({"gan.network.name": "../mlp"}, "unknown network name"),
        ({"gan.network.z_dim": 9}, "the weights do not fit the network mlp"),
        ({"shape.resolution": 0}, "shape.resolution"),
        ({"version": 2}, "version"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"gan.network.z_dim": 10**12}, "the weights do not fit the network mlp"),
        ({"gan.network.z_dim": 10**30}, "the network mlp of the config cannot be made"),
        ({"gan.network.generator.hidden_width": 10**8}, "the weights do not fit the network mlp"),
        ({"gan.network.generator.hidden_layers": 10**9}, "hidden_layers.*1000"),
        ({"shape.resolution": 10**6}, "the weights do not fit the network mlp"),
        ({"shape.num_classes": 10**11}, "the weights do not fit the network mlp"),
    ],
)
def test_a_config_that_is_not_one_is_refused(made, changes, reason):
    folder, _ = made
    rewrite(folder, CONFIG, dumps(merge(load(folder / CONFIG), changes)).encode())
    with pytest.raises(ValueError, match=reason):
        portable.read(folder)


def test_weights_of_another_network_are_refused(made):
    folder, _ = made
    weights = load_file(folder / WEIGHTS)
    weights.pop(next(iter(weights)))
    save_file(weights, folder / "other")
    rewrite(folder, WEIGHTS, (folder / "other").read_bytes())
    with pytest.raises(ValueError, match="the weights do not fit"):
        portable.read(folder)


@pytest.mark.parametrize("name", [CONFIG, SUMS])
def test_brackets_without_end_are_refused(made, name):
    folder, _ = made
    deep = b"version: " + b"[" * 3000 + b"]" * 3000 if name == CONFIG else b"[" * 100_000 + b"]" * 100_000
    if name == CONFIG:
        rewrite(folder, CONFIG, deep)
    else:
        (folder / SUMS).write_bytes(deep)
    with pytest.raises(ValueError, match="nests brackets|is not JSON"):
        portable.read(folder)


@pytest.mark.parametrize("name", registry.choices("gan_core.networks"))
def test_every_network_is_built_as_it_was(name):
    config = tiny_config(network__name=name, network__generator={}, network__discriminator={})
    shape = portable.Shape(resolution=32, channels=3, num_classes=0, points=False)
    made = registry.find("gan_core.networks", name).generator(resolution=32, channels=3, num_classes=0, z_dim=config.network.z_dim)
    built = portable.build(config, shape, made.state_dict())
    for (key, weight), (_, other) in zip(sorted(made.state_dict().items()), sorted(built.state_dict().items()), strict=True):
        assert torch.equal(weight, other), key
    assert all(not buffer.is_meta for buffer in built.buffers())
