"""Zip archives of images, read without unpacking them."""

import stat
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from gan_core.data import _listing
from gan_core.data._decode import LARGEST_BYTES, REPLACED, TOO_LARGE, UNREADABLE, CorruptImageError, Row
from pipelines.preparing.inventory import Block, Inventory, Request, identity_of


def take_inventory(path: Path) -> Inventory:
    """As for every source. Members are known by their number in the archive, because two may have one name: as when it is unpacked, the
    later one replaces the earlier.

    Raises:
        ValueError: no archive that can be read, or no images in it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [(number, member) for number, member in enumerate(archive.infolist()) if not member.is_dir()]
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise ValueError(f"{path} is not a readable zip archive ({error})") from None
    named = [(PurePosixPath(member.filename), number) for number, member in members]
    shown = [(place, number) for place, number in named if not _listing.is_hidden(place)]
    found = [(place, number) for place, number in shown if _listing.is_image(place)]
    last = dict(found)
    replaced = [
        (_listing.printable(place), REPLACED, "a later member of the archive has its name")
        for place, number in found
        if last[place] != number
    ]
    images = sorted(last.items())
    if not images:
        raise ValueError(f"the archive {path} holds no image files ({', '.join(_listing.SUFFIXES)})")
    places = _below_common_folder([place for place, _ in images])
    units = [(1, [number, place.parts[0]]) for place, (_, number) in zip(places, images, strict=True)]
    status = path.stat()
    identity = identity_of([(path.name, status.st_size, status.st_mtime_ns)])
    classes = _listing.classes_of(places)
    return Inventory("zip", len(units), units, identity, bool(classes), classes, replaced, len(shown) - len(found))


def _below_common_folder(places: list[PurePosixPath]) -> list[PurePosixPath]:
    """Without the folders that all of them lie in: archives often hold one, which is no class."""
    while all(len(place.parts) > 1 for place in places) and len({place.parts[0] for place in places}) == 1:
        places = [PurePosixPath(*place.parts[1:]) for place in places]
    return places


@lru_cache(maxsize=1)
def _archive(path: str, size: int, modified: int) -> zipfile.ZipFile:
    """Once in a process: the list of a large archive's members takes seconds."""
    return zipfile.ZipFile(path)


def read(request: Request, labelling: dict[str, Any], block: Block) -> Iterator[Row]:
    """The block's images; what cannot be unpacked comes with the reason."""
    status = Path(request.path).stat()
    archive = _archive(request.path, status.st_size, status.st_mtime_ns)
    numbers = {name: number for number, name in enumerate(labelling["classes"])}
    members = archive.infolist()
    for number, folder in block["units"]:
        member = members[number]
        yield Row(_listing.printable(PurePosixPath(member.filename)), _member(archive, member), numbers[folder] if numbers else -1)


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | CorruptImageError:
    """A member's bytes; not more than are allowed, whatever its header says."""
    try:
        mode = member.external_attr >> 16
        if stat.S_ISLNK(mode):
            return CorruptImageError(UNREADABLE, "is a link in an archive")
        with archive.open(member) as stream:
            content = stream.read(LARGEST_BYTES + 1)
    except Exception as error:  # an archive is hostile bytes too: a wrong checksum, a password, a method that nobody knows
        return CorruptImageError(UNREADABLE, f"cannot be unpacked ({str(error) or type(error).__name__})")
    return CorruptImageError(TOO_LARGE, f"has more than {LARGEST_BYTES} bytes") if len(content) > LARGEST_BYTES else content
