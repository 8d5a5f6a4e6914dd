"""Images in a folder, each a file of its own; sub-folders are classes, as torchvision's ImageFolder has them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from gan_core.data import _cache
from gan_core.data._decode import Row
from gan_core.data._encoded import LocalPath, Resize, Source, Wanted, decoded
from gan_core.data._listing import SUFFIXES, classes_of, list_images, printable, read
from gan_core.datatypes import ImageDataset

FILES_AT_ONCE = 256


def load(
    *,
    path: LocalPath,
    resolution: Annotated[int, Field(gt=0)] | None = None,
    channels: Literal[1, 3] | None = None,
    resize: Resize = "never",
    max_corrupt_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0,
    cache_dir: LocalPath | None = None,
) -> ImageDataset:
    """Images [count, channels, resolution, resolution] uint8 of the image files at any depth below `path`, in the order of their paths.

    Where every image lies below one of several sub-folders, their names are the classes, 0, 1, ... in sorted order; else there are
    no labels. The other settings are those of gan_core.data.parquet.

    Raises:
        ValueError: no folder at `path`, no image files in it, sizes that `resize` does not allow, too many corrupt files.
    """
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"data.path: no folder at {root}; give one that holds images, or data.name=parquet for a Parquet file")
    places, unusable, _ = list_images(root)
    if not places:
        raise ValueError(f"data.path: the folder {root} holds no image files ({', '.join(SUFFIXES)})")
    classes = classes_of(places)

    def rows() -> Iterator[list[Row]]:
        for first in range(0, len(places), FILES_AT_ONCE):
            part = places[first : first + FILES_AT_ONCE]
            yield [Row(printable(place), read(root / place), classes.index(place.parts[0]) if classes else -1) for place in part]
        yield [Row(printable(place), why, -1) for place, why in unusable]

    source = Source(path, _cache.stamps_of([root / place for place in places]), rows, labelled=bool(classes))
    wanted = Wanted(resolution, channels, resize, {"classes": classes, "unusable": [str(place) for place, _ in unusable]})
    stored = decoded(source, wanted, max_corrupt_fraction=max_corrupt_fraction, cache_dir=cache_dir)
    return ImageDataset(
        root.name,
        stored.images,
        stored.labels,
        stored.manifest["content_hash"],
        num_classes=len(classes),
        source=str(root),
        pages=stored.pages,
        class_names=tuple(classes),
    )
