"""Images in a folder, each a file of its own; sub-folders are classes, as torchvision's ImageFolder has them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from gan_core.data._encoded import LocalPath, Resize, Row, Source, Wanted, decoded
from gan_core.datatypes import ImageDataset

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
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
    files = sorted(file for file in root.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise ValueError(f"data.path: the folder {root} holds no image files ({', '.join(SUFFIXES)})")
    places = [file.relative_to(root) for file in files]
    classes = sorted({place.parts[0] for place in places if len(place.parts) > 1})
    labelled = len(classes) > 1 and all(len(place.parts) > 1 for place in places)
    classes = classes if labelled else []

    def rows() -> Iterator[list[Row]]:
        for first in range(0, len(files), FILES_AT_ONCE):
            part = slice(first, first + FILES_AT_ONCE)
            labels = [classes.index(place.parts[0]) if labelled else -1 for place in places[part]]
            yield [Row(str(place), file.read_bytes(), label) for place, file, label in zip(places[part], files[part], labels, strict=True)]

    source = Source(path, files, rows, labelled)
    wanted = Wanted(resolution, channels, resize, {"classes": classes})
    manifest, images, found = decoded(source, wanted, max_corrupt_fraction=max_corrupt_fraction, cache_dir=cache_dir)
    return ImageDataset(root.name, images, found, manifest["content_hash"], num_classes=len(classes), source=str(root))
