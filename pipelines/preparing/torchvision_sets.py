"""torchvision's data sets: MNIST, FashionMNIST, CIFAR10 and CelebA."""

import importlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from gan_core.data._decode import UNREADABLE, CorruptImageError, Row
from pipelines.preparing.inventory import Block, Inventory, Request, identity_of

TORCHVISION = "torchvision:"
# For each of torchvision's classes: its splits, and how one is asked for.
SPLITS: dict[str, dict[str, dict[str, Any]]] = {
    **{name: {"train": {"train": True}, "test": {"train": False}} for name in ("MNIST", "FashionMNIST", "CIFAR10")},
    "CelebA": {name: {"split": name, "target_type": []} for name in ("train", "valid", "test", "all")},
}


def take_inventory(request: Request) -> Inventory:
    """As for every source.

    Raises:
        ValueError: as `_torchvision`.
    """
    name, _ = _torchvision_name(request)
    data = _torchvision(request)
    units = [(1, number) for number in range(len(data))]
    root = Path(request.root or "")
    stamps = []
    for file in sorted(file for folder in _folders_of(name, root) for file in folder.rglob("*") if file.is_file()):
        status = file.stat()
        stamps.append((file.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns))
    labelled = name != "CelebA"
    return Inventory("torchvision", len(data), units, identity_of(stamps), labelled, list(data.classes) if labelled else [], [], 0)


def _folders_of(name: str, root: Path) -> list[Path]:
    """Where torchvision keeps the files of a data set."""
    return [root / {"CIFAR10": "cifar-10-batches-py", "CelebA": "celeba"}.get(name, name)]


def _torchvision_name(request: Request) -> tuple[str, str]:
    """The data set and its split.

    Raises:
        ValueError: there is no such data set or split, or no folder is given.
    """
    name, _, split = request.path.removeprefix(TORCHVISION).partition(":")
    if name not in SPLITS:
        raise ValueError(f"unknown data set {TORCHVISION}{name}; choices: {', '.join(TORCHVISION + known for known in SPLITS)}")
    split = split or "train"
    if split not in SPLITS[name]:
        raise ValueError(f"{TORCHVISION}{name} has no split '{split}'; its splits: {', '.join(SPLITS[name])}")
    if request.root is None:
        raise ValueError(f"--root: {request.path} needs the folder where torchvision keeps its files")
    return name, split


@lru_cache(maxsize=1)
def _torchvision(request: Request) -> Any:
    """The data set, once in a process.

    Raises:
        ValueError: its files are not there, or damaged.
    """
    name, split = _torchvision_name(request)
    datasets = importlib.import_module("torchvision.datasets")  # it takes seconds
    try:
        return getattr(datasets, name)(request.root, download=request.download, **SPLITS[name][split])
    except (RuntimeError, OSError, ValueError) as error:
        hint = "" if request.download else "; --download fetches them"
        raise ValueError(f"torchvision cannot load {name} from {request.root} ({error}){hint}") from None


def read(request: Request, labelling: dict[str, Any], block: Block) -> Iterator[Row]:
    """The block's images; what cannot be read comes with the reason."""
    data = _torchvision(request._replace(download=False))
    shown = request.path.removeprefix(TORCHVISION).replace(":", " ")
    for number in block["units"]:
        try:
            image, target = data[number]
        except OSError as error:  # CelebA's images are files
            image, target = CorruptImageError(UNREADABLE, f"cannot be read ({error})"), -1
        yield Row(f"{shown} {number}", image, target if isinstance(target, int) else -1)
