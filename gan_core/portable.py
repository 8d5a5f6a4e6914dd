"""A trained generator as files that hold no code: its config (YAML), its weights (safetensors), and the checksums of both.

Reading them runs nothing that they bring: networks are those of gan_core.networks, and nothing is unpickled.
"""

import json
from collections.abc import Callable
from hashlib import file_digest
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialised
from torch import nn

from gan_core import registry
from gan_core.config import GanConfig
from gan_core.datatypes import ImageDataset
from gan_core.overrides import dumps, load, validate
from gan_core.schema import Section

CONFIG, WEIGHTS, SUMS = "config.yaml", "generator.safetensors", "checksums.json"
FILES = (CONFIG, WEIGHTS, SUMS)

Whole = Annotated[int, Field(ge=0)]


class Shape(Section):
    """What a generator makes: `num_classes` is 0 without classes; `points` are float values and not pixels."""

    resolution: Annotated[int, Field(gt=0)]
    channels: Annotated[int, Field(gt=0)]
    num_classes: Whole
    points: bool
    class_names: tuple[str, ...] | None = None


class Description(Section):
    """The content of CONFIG. `content_hash` is that of the training data; `images_seen` is where the clock stood."""

    version: Literal[1] = 1
    shape: Shape
    images_seen: Whole
    content_hash: str
    gan: GanConfig


class Portable(NamedTuple):
    """An averaged generator, on the CPU in float32, ready to draw; and what is known of it."""

    generator: nn.Module
    description: Description


def shape_of(config: GanConfig, dataset: ImageDataset) -> Shape:
    """What the generator of a training on `dataset` makes."""
    return Shape(
        resolution=dataset.resolution,
        channels=dataset.channels,
        num_classes=dataset.num_classes if config.network.conditional else 0,
        points=dataset.images.dtype != torch.uint8,
        class_names=dataset.class_names or None if config.network.conditional else None,
    )


def build(config: GanConfig, shape: Shape, weights: dict[str, torch.Tensor]) -> nn.Module:
    """The generator with these weights, for evaluation.

    Raises:
        ValueError: the network is unknown, cannot make the shape, or is another one than the weights are of.
    """
    network = registry.find("gan_core.networks", config.network.name)
    keywords = {"resolution": shape.resolution, "channels": shape.channels, "num_classes": shape.num_classes}
    keywords |= {"z_dim": config.network.z_dim, **config.network.generator}
    wanted = _shapes(network.generator, keywords, config.network.name)
    given = {name: tuple(weight.shape) for name, weight in weights.items()}
    for name in sorted(wanted.keys() | given.keys()):
        if wanted.get(name) != given.get(name):
            raise ValueError(
                f"the weights do not fit the network {config.network.name} of the config: {name} is {given.get(name, 'not there')}, and "
                f"should be {wanted.get(name, 'not there')}"
            )
    with torch.random.fork_rng(devices=[]):
        generator: nn.Module = network.generator(**keywords)
    generator.load_state_dict(weights)
    return generator.eval().requires_grad_(False)


def _shapes(make: Callable[..., nn.Module], keywords: dict[str, Any], name: str) -> dict[str, tuple[int, ...]]:
    """The shapes of a generator's weights, without memory for them: a config may come from a stranger, and ask for terabytes."""
    try:
        with torch.device("meta"):
            return {key: tuple(weight.shape) for key, weight in make(**keywords).state_dict().items()}
    except (RuntimeError, OverflowError, TypeError) as error:  # sizes beyond what PyTorch counts with
        raise ValueError(f"the network {name} of the config cannot be made: {str(error).splitlines()[0]}") from None


def save(folder: Path, portable: Portable) -> None:
    """Write the three files to `folder`; the checksums come last."""
    weights = {name: _float32(tensor) for name, tensor in portable.generator.state_dict().items()}
    (folder / CONFIG).write_text(dumps(portable.description.model_dump(mode="json")))
    (folder / WEIGHTS).write_bytes(serialised(weights))  # save_file leaves it readable by its owner alone
    sums = {name: _digest(folder / name) for name in (CONFIG, WEIGHTS)}
    temporary = folder / f".{SUMS}"
    temporary.write_text(json.dumps(sums, indent=2))
    temporary.replace(folder / SUMS)


def _float32(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.float() if tensor.is_floating_point() else tensor).detach().cpu().clone().contiguous()


def read(folder: Path) -> Portable:
    """The generator that `save` wrote.

    Raises:
        ValueError: a file is missing, is a link, or is not what was written; or this version of raygan cannot build the network.
    """
    for name in FILES:
        _require_plain(folder, name)
    try:
        sums = json.loads((folder / SUMS).read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{folder / SUMS} is not JSON ({error})") from None
    for name in (CONFIG, WEIGHTS):
        if not isinstance(sums, dict) or sums.get(name) != _digest(folder / name):
            raise ValueError(f"the generator in {folder} is damaged: {name} does not have the checksum noted in {SUMS}")
    description = validate(load(folder / CONFIG), Description)
    try:
        weights = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} is not a safetensors file ({error})") from None
    return Portable(build(description.gan, description.shape, weights), description)


def _require_plain(folder: Path, name: str) -> None:
    """Check that the file is there, and within the folder."""
    path = folder / name
    if path.is_symlink() or (path.exists() and path.resolve().parent != folder.resolve()):
        raise ValueError(f"{path} is a link; a generator's files must be files: copy them")
    if not path.is_file():
        pickled = sorted(file.name for file in folder.rglob("*") if file.suffix in (".pkl", ".pickle", ".pt", ".pth", ".bin"))
        beside = f"; what is there ({', '.join(pickled[:3])}) may hold code, and is not loaded" if pickled else ""
        raise ValueError(f"{folder} is not one of raygan's generators: it has no {name}{beside}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
