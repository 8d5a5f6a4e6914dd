"""The Inception-v3 of the published FID (1706.08500): TensorFlow's weights of 2015-12-05, in torch-fidelity's PyTorch network.

Only scores from these weights may be called FID.
"""

import io
import pickle
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from gan_core.datatypes import ImageDataset
from gan_core.extractors._extractor import Extractor, Features, hash_of, require_colours

FILE = "weights-inception-2015-12-05-6726825d.pth"
FILE_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
DIMENSIONS, CLASSES = 2048, 1008
DEFINITION = "inception 1: torch-fidelity's FeatureExtractorInceptionV3, pool features; float32"


def build(dataset: ImageDataset, *, device: torch.device, cache_dir: Path, weights: str | None = None) -> Extractor:
    """The 2048 pooled features, and the probabilities of the network's 1008 classes (as the Inception Score takes them, without bias).

    Images become uint8 as sample PNGs have them, ((x + 1) * 127.5) rounded; one channel is repeated to three; they are resized to
    299x299 by TensorFlow 1's bilinear interpolation, which has no anti-aliasing: what published figures were computed with.

    `weights` is the path of the weights file. Without it, torch.hub's cache is read, where torch-fidelity keeps it too, and the file
    is downloaded there once if it is absent. Its sha256 is checked before anything in it is read.

    Raises:
        ValueError: torch-fidelity is not installed, no weights file, another file, images that are neither grey nor RGB.
    """
    require_colours("inception", dataset.channels)
    _fidelity()
    path = Path(weights).expanduser() if weights is not None else _fetched()
    network = _load(path, FILE_SHA256)
    weights_hash = hash_of(DEFINITION, network.state_dict())
    network = network.to(device)

    def features_of(images: Tensor) -> Features:
        features, logits = network(_as_pixels(images))
        return Features(features, logits.softmax(1))

    return Extractor(
        name="inception",
        weights_hash=weights_hash,
        dimensions=DIMENSIONS,
        num_classes=CLASSES,
        resize="bilinear-tensorflow1",
        dtype="float32",
        image_shape=(dataset.channels, *dataset.images.shape[2:]),
        device=device,
        network=features_of,
        facts={"file": FILE, "file_sha256": FILE_SHA256},
    )


def _as_pixels(images: Tensor) -> Tensor:
    """Images in [-1, 1] of 1 or 3 channels as [batch, 3, H, W] uint8."""
    pixels = images.add(1.0).mul_(127.5).round_().clamp_(0.0, 255.0).to(torch.uint8)
    return pixels.expand(-1, 3, -1, -1)


def _fidelity() -> Any:
    try:
        # Here, because it imports torchvision, and because a core without torch-fidelity can do all but this.
        from torch_fidelity import feature_extractor_inceptionv3
    except ImportError as error:
        raise ValueError(
            f"extractor inception needs torch-fidelity, which cannot be imported ({error}); run: pip install 'torch-fidelity>=0.4'"
        ) from None
    return feature_extractor_inceptionv3


def _load(path: Path, wanted_sha256: str) -> nn.Module:
    """torch-fidelity's network with the weights of the file at `path`, whose sha256 must begin with `wanted_sha256`.

    The network's own loader would unpickle whatever a file holds, so it is given a file in memory, written here from tensors alone.

    Raises:
        ValueError: no such file, another hash, not a file of tensors, tensors of another network.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"extractor inception: cannot read {path} ({error.strerror}); {_what_to_do()}") from None
    found = sha256(content).hexdigest()
    if not found.startswith(wanted_sha256):
        raise ValueError(
            f"extractor inception: {path} is not the published file: its sha256 is {found} and not {wanted_sha256}; {_what_to_do()}"
        )
    safe = io.BytesIO()
    try:
        torch.save(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), safe)
        safe.seek(0)
        network: nn.Module = _fidelity().FeatureExtractorInceptionV3(
            "inception-v3", ["2048", "logits_unbiased"], feature_extractor_weights_path=safe
        )
    except (pickle.UnpicklingError, RuntimeError, TypeError, EOFError) as error:
        raise ValueError(f"extractor inception: {path} does not hold the network's weights ({str(error).splitlines()[0]})") from None
    return network.eval()


def _fetched() -> Path:
    """The file in torch.hub's cache, downloaded by one process where it is absent.

    Raises:
        ValueError: it is absent and cannot be downloaded.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / FILE
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.is_file():
                torch.hub.download_url_to_file(_fidelity().URL_INCEPTION_V3, str(path), hash_prefix=FILE_SHA256, progress=False)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; RuntimeError: another hash
        raise ValueError(f"extractor inception: {path} is absent and could not be downloaded ({error}); {_what_to_do()}") from None
    return path


def _what_to_do() -> str:
    url = getattr(_fidelity(), "URL_INCEPTION_V3", "torch-fidelity's release v0.2.0")
    return (
        f"download {url} (sha256 {FILE_SHA256}) on a machine with a network, and give its path as the option `weights`, or put it into "
        f"{torch.hub.get_dir()}/checkpoints/; without it, use lenet or random_conv, whose scores are not FID"
    )
