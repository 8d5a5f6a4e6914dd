"""The 1,797 handwritten digits of 8x8 pixels that ship inside scikit-learn (Alpaydin and Kaynak 1998): real data, no download."""

from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from gan_core.datatypes import ImageDataset

FILE = "datasets/data/digits.csv.gz"  # 64 grey levels from 0 to 16 and a label in each line


def load() -> ImageDataset:
    """Images [1797, 1, 8, 8] uint8, scaled from the source's 17 grey levels, and labels 0..9.

    Raises:
        ValueError: scikit-learn is not installed, or has them elsewhere.
    """
    source = torch.from_numpy(np.loadtxt(_file(), delimiter=","))
    images = source[:, :64].reshape(-1, 1, 8, 8).mul(255 / 16).round().to(torch.uint8).contiguous()
    labels = source[:, 64].to(torch.int64).contiguous()
    content = sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
    return ImageDataset("digits", images, labels, content, num_classes=10, source="sklearn.datasets.load_digits")


def _file() -> Path:
    """Where scikit-learn keeps them; found without importing it, which takes a second in every process."""
    package = find_spec("sklearn")
    for folder in (package.submodule_search_locations or []) if package else []:
        if Path(folder, FILE).is_file():
            return Path(folder, FILE)
    raise ValueError(f"data.name: digits needs {FILE} of scikit-learn, which is not there; install scikit-learn")
