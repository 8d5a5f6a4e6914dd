"""Which files of a folder, or members of an archive, are images, and which classes they are in: torchvision's ImageFolder, made safe."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from gan_core.data._decode import LARGEST_BYTES, LINK, TOO_LARGE, UNREADABLE, CorruptImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
RESOURCE_FOLDER = "__MACOSX"


class Listing(NamedTuple):
    """`places` of images, relative and in order; `unusable` ones with the reason; and how many `others`, which are no images by name."""

    places: list[PurePath]
    unusable: list[tuple[PurePath, CorruptImageError]]
    others: int


def list_images(root: Path) -> Listing:
    """All files at any depth below `root` whose names end as images' do, in the order of their paths.

    Links are followed, but not to a folder that they lie in. Names that begin with a dot are passed over.
    """
    listing = Listing([], [], 0)
    others = _list(root, PurePath(), listing, frozenset({_identity(root)}))
    return Listing(sorted(listing.places), sorted(listing.unusable, key=lambda item: item[0]), others)


def is_hidden(place: PurePath) -> bool:
    """Whether a part of the path begins with a dot, or is what macOS puts into archives."""
    return any(part.startswith(".") or part == RESOURCE_FOLDER for part in place.parts)


def is_image(place: PurePath) -> bool:
    """Whether the name ends as an image's does."""
    return place.suffix.lower() in SUFFIXES


def classes_of(places: Sequence[PurePath]) -> list[str]:
    """The sub-folders' names, sorted, where every image lies below one of several; else none, and there are no labels."""
    found = sorted({place.parts[0] for place in places if len(place.parts) > 1})
    return found if len(found) > 1 and all(len(place.parts) > 1 for place in places) else []


def read(file: Path) -> bytes | CorruptImageError:
    """The file's bytes, or why there are none."""
    try:
        with file.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size > LARGEST_BYTES:
                return CorruptImageError(TOO_LARGE, f"has more than {LARGEST_BYTES} bytes")
            return stream.read()
    except OSError as error:
        return CorruptImageError(UNREADABLE, f"cannot be read ({error.strerror})")


def printable(place: PurePath) -> str:
    """The path as text, with bytes that are no UTF-8 written out."""
    return os.fsencode(place.as_posix()).decode("utf-8", "backslashreplace")


def _list(folder: Path, place: PurePath, listing: Listing, above: frozenset[tuple[int, int]]) -> int:
    """Adds what lies below to `listing`; returns how many other files there are. `above` are the folders that it lies in."""
    others = 0
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        listing.unusable.append((place, CorruptImageError(UNREADABLE, f"cannot be listed ({error.strerror})")))
        return 0
    for entry in entries:
        inner = place / entry.name
        if is_hidden(PurePath(entry.name)):
            continue
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself
            is_folder = is_file = False
        if is_folder:
            identity = _identity(Path(entry.path))
            if identity in above:
                listing.unusable.append((inner, CorruptImageError(LINK, "is a link to a folder that it lies in")))
            else:
                others += _list(Path(entry.path), inner, listing, above | {identity})
        elif not is_image(inner):
            others += 1
        elif is_file:
            listing.places.append(inner)
        elif entry.is_symlink():
            listing.unusable.append((inner, CorruptImageError(LINK, "is a link to nothing")))
        else:
            listing.unusable.append((inner, CorruptImageError(UNREADABLE, "is not a regular file")))
    return others


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
