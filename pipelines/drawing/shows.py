"""Pictures of a generator: a grid of its classes, films and strips between seeds, and the image nearest to a given picture."""

import io
import json
import math
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gan_core import interpolation, pictures, projection, sampling, truncation
from gan_core.data._decode import CorruptImageError, Layout, decode
from gan_core.datatypes import Batch
from gan_core.drawing import BLOCK, images_of_seeds, label_of, one_thread
from gan_core.projection import Projection
from gan_core.truncation import HasW, Truncated, TruncatedInW
from pipelines.drawing import outputs
from pipelines.generators import Trained

FILMS = (".gif", ".webp")
FRAME_MILLISECONDS = 60
LEGIBLE = 320  # pixels of the longer side: smaller pictures are enlarged
COLUMNS, PLAIN_COLUMNS, FILM_COLUMNS = 10, 8, 5
FILM_FRAMES, STRIP_FRAMES = 24, 8  # from one seed to the next


CANDIDATES, STARTS, STEPS = 1000, 8, 500


def has_w(trained: Trained) -> bool:
    """Whether the generator has a w space."""
    return isinstance(trained.generator, HasW)


class Studio(NamedTuple):
    """A generator on its device, and how images are wished: of one class, or of all; the truncation, resolved."""

    model: Truncated
    z_dim: int
    classes: list[int | None]
    num_classes: int
    truncation: Tensor


def studio(trained: Trained, label: int | None, cut: float | None) -> Studio:
    """Get ready to draw. `label` None is every class."""
    about, device = trained.description, torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count, z_dim = about.shape.num_classes, about.gan.network.z_dim
    model = truncation.truncatable(trained.generator.to(device), z_dim=z_dim, num_classes=count)
    classes: list[int | None] = [None] if not count else list(range(count)) if label is None else [label]
    return Studio(model, z_dim, classes, count, torch.tensor(truncation.require_truncation(model, cut), device=device))


def grid(here: Studio, *, first_seed: int, columns: int | None) -> np.ndarray:
    """A row for each class, with the seed of its column; where there is one row only, as many rows as columns, a seed for each image."""
    columns = columns or (COLUMNS if len(here.classes) > 1 else PLAIN_COLUMNS)
    count = columns if len(here.classes) > 1 else columns**2
    images: list[Tensor] = []
    with one_thread():
        for label in here.classes:
            images += images_of_seeds(
                here.model,
                first_seed,
                count,
                z_dim=here.z_dim,
                num_classes=here.num_classes,
                label=label,
                truncation=float(here.truncation),
            )
    return pictures.grid(torch.cat(images), columns=columns)


def interpolate(here: Studio, seeds: list[int], frames: int | None, kind: str, *, closed: bool) -> bytes:
    """A film, or for `kind` .png a strip, with the seeds' images in this order and what lies between: in w straight, in z on the sphere.

    All classes are side by side in a film, and rows of a strip.
    """
    legs = len(seeds) if closed else len(seeds) - 1
    count = frames or (FILM_FRAMES if kind in FILMS else STRIP_FRAMES) * legs + (0 if closed else 1)
    z = torch.cat([sampling.latents_of_seeds(seed, 1, z_dim=here.z_dim) for seed in seeds]).to(here.truncation.device)
    rows = torch.stack([_between(here, z, label, count, closed=closed) for label in here.classes])
    if kind not in FILMS:
        return outputs.png(pictures.grid(rows.flatten(0, 1), columns=count))
    return _film([_enlarged(pictures.grid(frame, columns=min(len(frame), FILM_COLUMNS))) for frame in rows.unbind(1)], kind)


@torch.no_grad()
def _between(here: Studio, z: Tensor, label: int | None, frames: int, *, closed: bool) -> Tensor:
    """Images [frames, C, H, W] of one class."""
    model = here.model
    if isinstance(model, TruncatedInW):
        w = model.map(z, _labels(label, len(z), z.device), here.truncation)
        way = interpolation.way(w, frames, interpolation.straight, closed=closed)
        return torch.cat([model.synthesise(part) for part in way.split(BLOCK)])
    way = interpolation.way(z, frames, interpolation.spherical, closed=closed)
    return torch.cat([model(part, _labels(label, len(part), z.device), here.truncation) for part in way.split(BLOCK)])


def _labels(label: int | None, count: int, device: torch.device) -> Tensor | None:
    return None if label is None else torch.full((count,), label, device=device)


def _enlarged(picture: np.ndarray) -> np.ndarray:
    factor = math.ceil(LEGIBLE / max(picture.shape[:2]))
    return picture.repeat(factor, 0).repeat(factor, 1)


def _film(frames: list[np.ndarray], kind: str) -> bytes:
    grey = all((frame[..., :1] == frame).all() for frame in frames)  # then 256 levels are enough, and a GIF is exact
    first, *others = [Image.fromarray(frame[..., 0] if grey else frame) for frame in frames]
    options = {"lossless": True} if kind == ".webp" else {}
    buffer = io.BytesIO()
    first.save(buffer, kind.removeprefix("."), save_all=True, append_images=others, duration=FRAME_MILLISECONDS, loop=0, **options)
    return buffer.getvalue()


class Search(NamedTuple):
    """How to project: in which space, from how many of `candidates` random seeds, for how many steps of Adam."""

    space: str
    first_seed: int
    candidates: int
    starts: int
    steps: int


def project(trained: Trained, picture: Path, label: int | None, search: Search) -> tuple[bytes, bytes, Projection]:
    """The image nearest to a picture file: a PNG with the picture, its projection and the best random image side by side; the latent as
    JSON; and the numbers.

    Raises:
        ValueError: the picture cannot be read, or there is no such space.
    """
    here = studio(trained, label, None)
    shape, device = trained.description.shape, here.truncation.device
    if search.space == "w" and not isinstance(here.model, TruncatedInW):
        raise ValueError("--space: this generator has no w; use --space z")
    wanted = torch.tensor(_decoded(picture, Layout(shape.resolution, shape.channels, "lanczos")))[None]
    target = (wanted.float() / 127.5 - 1.0).to(device)
    seeds = range(search.first_seed, search.first_seed + search.candidates)
    z = sampling.latents_of_seeds(search.first_seed, search.candidates, z_dim=here.z_dim).to(device)
    labels = torch.tensor([label_of(seed, here.num_classes, label) for seed in seeds], device=device) if here.num_classes else None
    off = torch.tensor(here.model.off, device=device)
    latents, generate = z, partial(_of_z, here.model, off)
    if search.space == "w":
        assert isinstance(here.model, TruncatedInW)
        with torch.no_grad():
            latents, generate = here.model.map(z, labels, off), partial(_of_w, here.model)
    found = projection.project(
        generate,
        target,
        Batch(latents, labels),
        starts=min(search.starts, search.candidates),
        steps=search.steps,
    )
    side_by_side = pictures.grid(torch.cat([target, found.image, found.random_image]), columns=3)
    return outputs.png(_enlarged(side_by_side)), _record(trained, search.space, found), found


def _of_z(model: Truncated, off: Tensor, batch: Batch) -> Tensor:
    images: Tensor = model(batch.inputs, batch.labels, off)
    return images


def _of_w(model: TruncatedInW, batch: Batch) -> Tensor:
    """Not clamped: a pixel beyond its range would have no gradient to come back by."""
    images: Tensor = model.generator.synthesise(batch.inputs)  # type: ignore[operator]
    return images


def _decoded(picture: Path, layout: Layout) -> np.ndarray:
    try:
        return decode(picture.read_bytes(), layout).pixels
    except OSError as error:
        raise ValueError(f"--project: {picture} cannot be read ({error.strerror})") from None
    except CorruptImageError as error:
        raise ValueError(f"--project: {picture} {error}") from None


def relative_length(space: str, found: Projection) -> float | None:
    """The length of z over that of random ones, sqrt(z_dim): far above 1 the generator was never trained. None for w."""
    z = found.latent.inputs[0]
    return float(z.norm()) / len(z) ** 0.5 if space == "z" else None


def _record(trained: Trained, space: str, found: Projection) -> bytes:
    values: dict[str, Any] = {
        "generator": trained.name,
        "space": space,
        "relative_length": relative_length(space, found),
        "latent": found.latent.inputs[0].tolist(),
        "label": None if found.latent.labels is None else int(found.latent.labels[0]),
        "rmse_grey_levels": found.error,
        "random_rmse_grey_levels": found.random_error,
    }
    return json.dumps(values, indent=2).encode()
