import hashlib
import pickle
import sys
from urllib.error import URLError

import pytest
import torch

from gan_core.extractors import inception
from tests.gan_core.test_extractors import CPU, images_of, made_up

feature_extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A weights file of the right architecture: He's weights, which keep 94 layers alive, and batch norm that does nothing."""
    path = tmp_path_factory.mktemp("inception") / inception.FILE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_extractor, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_: None)
        network = feature_extractor.FeatureExtractorInceptionV3("x", ["2048"])
    source = torch.Generator().manual_seed(0)
    weights = network.state_dict()
    for name, weight in weights.items():
        if name.endswith("conv.weight") or name == "fc.weight":
            weight.copy_(torch.randn(weight.shape, generator=source) * (2.0 / weight[0].numel()) ** 0.5)
    torch.save(weights, path)
    return path


@pytest.fixture
def sha256(file, monkeypatch):
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "FILE_SHA256", found)
    return found


def build(dataset, folder, **options):
    return inception.build(dataset, device=CPU, cache_dir=folder, **options)


def test_features_and_probabilities_are_torch_fidelity_s_own_for_the_same_png_pixels(tmp_path, file, sha256):
    dataset = made_up(channels=3, side=16)
    extractor = build(dataset, tmp_path, weights=str(file))
    found = extractor(images_of(dataset, 3))
    features, logits = inception._load(file, sha256)(dataset.images[:3])
    torch.testing.assert_close(found.features, features, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.probabilities, logits.softmax(1), rtol=1e-4, atol=1e-7)
    assert found.features.shape == (3, 2048)
    assert found.probabilities.shape == (3, 1008)
    assert found.features.std(0).max() > 1e-3  # the network is alive
    assert (extractor.dimensions, extractor.num_classes, extractor.resize) == (2048, 1008, "bilinear-tensorflow1")
    alone = extractor.features(images_of(dataset, 1))
    torch.testing.assert_close(alone, found.features[:1], rtol=1e-4, atol=1e-5)
    assert build(dataset, tmp_path, weights=str(file)).weights_hash == extractor.weights_hash


def test_grey_images_are_repeated_to_three_channels(tmp_path, file, sha256):
    grey = images_of(made_up(side=16), 2)
    as_grey = build(made_up(side=16), tmp_path, weights=str(file)).features(grey)
    as_colour = build(made_up(side=16, channels=3), tmp_path, weights=str(file)).features(grey.expand(-1, 3, -1, -1))
    assert torch.equal(as_grey, as_colour)


def test_all_256_grey_levels_come_back_and_others_are_rounded():
    levels = torch.arange(256, dtype=torch.uint8)
    images = (levels.float() * (1 / 127.5) - 1.0).reshape(1, 1, 16, 16)
    assert torch.equal(inception._as_pixels(images)[0, 2].flatten(), levels)
    between = torch.tensor([-1.003, -0.9999, 0.001, 1.003]).reshape(1, 1, 2, 2)
    assert inception._as_pixels(between)[0, 0].flatten().tolist() == [0, 0, 128, 255]


def test_another_file_is_refused_before_it_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    path = tmp_path / inception.FILE
    path.write_bytes(pickle.dumps(Trap(), protocol=2))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=f"is not the published file: its sha256 is {found} and not 6726825d0af5f729"):
        build(made_up(), tmp_path, weights=str(path))
    with pytest.raises(ValueError, match="does not hold the network's weights"):  # with the right hash: still not run
        inception._load(path, found[:8])


def test_a_file_of_another_network_is_refused(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"fc.weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="does not hold the network's weights"):
        inception._load(path, "")


def test_a_missing_file_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(
        ValueError, match=r"cannot read .*absent\.pth \(No such file or directory\); download https://.*6726825d\.pth \(sha256"
    ):
        build(made_up(), tmp_path, weights=str(tmp_path / "absent.pth"))


def test_without_a_path_the_file_is_read_from_torch_hub_s_cache(tmp_path, file, sha256, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / inception.FILE).symlink_to(file)
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("downloaded"))
    assert build(made_up(), tmp_path).facts == {"file": inception.FILE, "file_sha256": sha256}


def test_without_a_network_the_error_names_the_file_its_hash_and_what_to_do(tmp_path, monkeypatch):
    def offline(url, *_, hash_prefix, **__):
        assert url.endswith(inception.FILE)
        assert hash_prefix == inception.FILE_SHA256
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(ValueError) as caught:
        build(made_up(), tmp_path)
    message = str(caught.value)
    assert f"{inception.FILE} is absent and could not be downloaded (<urlopen error no network>)" in message
    assert f"sha256 {inception.FILE_SHA256}" in message
    assert "give its path as the option `weights`" in message
    assert "use lenet or random_conv, whose scores are not FID" in message


def test_without_torch_fidelity_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ValueError, match=r"needs torch-fidelity.*run: pip install 'torch-fidelity>=0\.4'"):
        build(made_up(), tmp_path)


def test_images_that_are_neither_grey_nor_rgb_are_refused(tmp_path):
    with pytest.raises(ValueError, match="extractor inception takes images of 1 or 3 channels, and the data set has 2"):
        build(made_up(channels=2), tmp_path)
