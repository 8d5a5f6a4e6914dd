"""What all kinds of sources have in common: how one is asked for, and what is known of it before anything is decoded."""

from hashlib import sha256
from typing import Any, NamedTuple

Block = dict[str, Any]


class Request(NamedTuple):
    """The source as the user gave it: `path`, columns of Parquet files, and where torchvision's files are or shall be."""

    path: str
    image_column: str
    label_column: str | None
    root: str | None
    download: bool


class Inventory(NamedTuple):
    """What a source holds: `total` images in `units`, each (number of images, what to read), that blocks are put together from.

    `identity` changes with the content. `unusable` are images that cannot even be listed: place, reason, detail. `others` files are no
    images by name. `whole` units are not cut where they are small. `classes` are names, None where only the labels know.
    """

    kind: str
    total: int
    units: list[tuple[int, Any]]
    identity: str
    labelled: bool
    classes: list[str] | None
    unusable: list[tuple[str, str, str]]
    others: int


def identity_of(stamps: list[tuple[str, int, int]]) -> str:
    """Changes when a file's name, size or modification time does."""
    digest = sha256()
    for stamp in stamps:
        digest.update(repr(stamp).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
