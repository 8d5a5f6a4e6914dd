"""What `raygan prepare` reads: folders, zip archives, Parquet files and torchvision's data sets, each cut into blocks, one for each shard.

A block is plain data that a task anywhere can read again, and a function of the source and the settings alone.
"""

import zipfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from gan_core.data import _listing, _tables
from gan_core.data._decode import Row
from pipelines.preparing import archives, torchvision_sets
from pipelines.preparing.inventory import Block, Inventory, Request, identity_of
from pipelines.preparing.torchvision_sets import TORCHVISION


def take_inventory(request: Request) -> Inventory:
    """What is there, without decoding anything.

    Raises:
        ValueError: nothing that can be prepared.
    """
    if request.path.startswith(TORCHVISION):
        return torchvision_sets.take_inventory(request)
    if "://" in request.path:
        return _parquet_inventory(request)
    path = Path(request.path)
    if not path.exists():
        raise ValueError(f"nothing at {path}; give a folder, a zip archive, Parquet files, or torchvision:NAME")
    if path.is_dir():
        return _parquet_inventory(request) if _holds_parquet(path) else _folder_inventory(path)
    if zipfile.is_zipfile(path):
        return archives.take_inventory(path)
    if path.suffix == ".parquet":
        return _parquet_inventory(request)
    raise ValueError(f"{path} is no folder, zip archive or Parquet file; unpack it, and give the folder")


def cut(inventory: Inventory, images_per_block: int) -> list[Block]:
    """Blocks of about so many images. Units stay whole unless they are larger than a block."""
    blocks: list[Block] = []
    waiting: list[Any] = []
    count = 0

    def close() -> None:
        nonlocal waiting, count
        if waiting:
            blocks.append({"number": len(blocks), "count": count, "units": waiting})
            waiting, count = [], 0

    for size, unit in inventory.units:
        if size > images_per_block:
            close()
            part = _tables.Part(*unit)
            for first in range(part.first, part.stop, images_per_block):
                waiting = [part._replace(first=first, stop=min(first + images_per_block, part.stop))]
                count = waiting[0].stop - first
                close()
            continue
        if count + size > images_per_block:
            close()
        waiting.append(unit)
        count += size
    close()
    return blocks


def read(kind: str, request: Request, labelling: dict[str, Any], block: Block) -> Iterator[Row]:
    """The block's images; what cannot be read comes with the reason in place of its content."""
    yield from READERS[kind](request, labelling, block)


def labelling_of(inventory: Inventory, request: Request) -> dict[str, Any]:
    """What the reader of a block needs to know of the whole source."""
    return {
        "classes": inventory.classes if inventory.labelled and inventory.kind in ("folder", "zip") else [],
        "identity": inventory.identity,
    }


def _holds_parquet(folder: Path) -> bool:
    """Whether there is a Parquet file, here or one folder deeper: no folder of images has any."""
    return any(next(folder.glob(pattern), None) for pattern in ("*.parquet", "*/*.parquet"))


def _folder_inventory(root: Path) -> Inventory:
    listing = _listing.list_images(root)
    if not listing.places and not listing.unusable:
        raise ValueError(f"the folder {root} holds no image files ({', '.join(_listing.SUFFIXES)})")
    stamps, units = [], []
    for place in listing.places:
        status = (root / place).stat()
        stamps.append((place.as_posix(), status.st_size, status.st_mtime_ns))
        units.append((1, place.as_posix()))
    unusable = [(_listing.printable(place), why.reason, str(why)) for place, why in listing.unusable]
    classes = _listing.classes_of(listing.places)
    return Inventory("folder", len(units), units, identity_of(stamps), bool(classes), classes, unusable, listing.others)


def _read_folder(request: Request, labelling: dict[str, Any], block: Block) -> Iterator[Row]:
    root, numbers = Path(request.path), {name: number for number, name in enumerate(labelling["classes"])}
    for name in block["units"]:
        place = PurePath(name)
        label = numbers[place.parts[0]] if numbers else -1
        yield Row(_listing.printable(place), _listing.read(root / place), label)


def _parquet_inventory(request: Request) -> Inventory:
    place = _tables.locate(request.path)
    try:
        files = _tables.parquet_files(place)
        columns, metadata = _tables.find_columns(place, files, request.image_column, request.label_column)
        _tables.require_labels(place, files, metadata, columns.label)
    except ValueError as error:  # of training's words, this command's
        words = str(error).replace("data.path: ", "").replace("data.image_column", "--image-column")
        raise ValueError(words.replace("data.label_column", "--label-column")) from None
    units = [(part.stop - part.first, tuple(part)) for part in _tables.row_groups(files, metadata)]
    names = _tables.class_names(metadata[0], columns.label) or None
    count = sum(size for size, _ in units)
    return Inventory(
        "parquet",
        count,
        units,
        identity_of([(file.path, file.size, file.modified) for file in files]),
        columns.label is not None,
        names,
        [],
        0,
    )


def _read_parquet(request: Request, labelling: dict[str, Any], block: Block) -> Iterator[Row]:
    for unit in block["units"]:
        part = _tables.Part(*unit)
        try:
            for rows in _reading_of(request, labelling["identity"], part).rows(part):
                yield from rows
        except Exception:
            _let_go()  # its file may be readable when it is opened again
            raise


_readings: dict[Any, _tables.Reading] = {}  # the last one of this process


def _reading_of(request: Request, identity: str, part: _tables.Part) -> _tables.Reading:
    """The row group, where an earlier block of this process left it: cut into many, it would be read from its start for each."""
    columns = _columns(request, part.file)
    key = (identity, request.path, part.file, part.group, columns)
    found = _readings.get(key)
    if found is None or found.first > part.first:
        _let_go()
        found = _readings[key] = _tables.Reading(_tables.locate(request.path).filesystem, part, columns)
    return found


def _let_go() -> None:
    while _readings:
        _readings.popitem()[1].close()


@lru_cache(maxsize=1024)
def _columns(request: Request, file: str) -> _tables.Columns:
    place = _tables.locate(request.path)
    return _tables.find_columns(place, [_tables.Stamp(file, 0, 0)], request.image_column, request.label_column)[0]


READERS: dict[str, Callable[[Request, dict[str, Any], Block], Iterator[Row]]] = {
    "folder": _read_folder,
    "zip": archives.read,
    "parquet": _read_parquet,
    "torchvision": torchvision_sets.read,
}
