"""What `raygan prepare` reads: folders, zip archives, Parquet files and torchvision's data sets, each cut into blocks, one for each shard.

A block is plain data that a task anywhere can read again, and a function of the source and the settings alone.
"""

import importlib
import stat
import zipfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from hashlib import sha256
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, NamedTuple

from gan_core.data import _listing, _tables
from gan_core.data._decode import LARGEST_BYTES, TOO_LARGE, UNREADABLE, CorruptImageError, Row

Block = dict[str, Any]
TORCHVISION = "torchvision:"
# For each of torchvision's classes: its splits, and how one is asked for.
SPLITS: dict[str, dict[str, dict[str, Any]]] = {
    **{name: {"train": {"train": True}, "test": {"train": False}} for name in ("MNIST", "FashionMNIST", "CIFAR10")},
    "CelebA": {name: {"split": name, "target_type": []} for name in ("train", "valid", "test", "all")},
}


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


def take_inventory(request: Request) -> Inventory:
    """What is there, without decoding anything.

    Raises:
        ValueError: nothing that can be prepared.
    """
    if request.path.startswith(TORCHVISION):
        return _torchvision_inventory(request)
    if "://" in request.path:
        return _parquet_inventory(request)
    path = Path(request.path)
    if not path.exists():
        raise ValueError(f"nothing at {path}; give a folder, a zip archive, Parquet files, or torchvision:NAME")
    if path.is_dir():
        return _parquet_inventory(request) if _holds_parquet(path) else _folder_inventory(path)
    if zipfile.is_zipfile(path):
        return _zip_inventory(path)
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
    return {"classes": inventory.classes if inventory.labelled and inventory.kind in ("folder", "zip") else []}


def _identity(stamps: list[tuple[str, int, int]]) -> str:
    digest = sha256()
    for stamp in stamps:
        digest.update(repr(stamp).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


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
    return Inventory("folder", len(units), units, _identity(stamps), bool(classes), classes, unusable, listing.others)


def _read_folder(request: Request, labelling: dict[str, Any], block: Block) -> Iterator[Row]:
    root, numbers = Path(request.path), {name: number for number, name in enumerate(labelling["classes"])}
    for name in block["units"]:
        place = PurePath(name)
        label = numbers[place.parts[0]] if numbers else -1
        yield Row(_listing.printable(place), _listing.read(root / place), label)


def _zip_inventory(path: Path) -> Inventory:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise ValueError(f"{path} is not a readable zip archive ({error})") from None
    named = [(PurePosixPath(member.filename), member) for member in members]
    shown = [(place, member) for place, member in named if not _listing.is_hidden(place)]
    images = sorted(((place, member) for place, member in shown if _listing.is_image(place)), key=lambda item: item[0])
    if not images:
        raise ValueError(f"the archive {path} holds no image files ({', '.join(_listing.SUFFIXES)})")
    places = _below_common_folder([place for place, _ in images])
    units = [(1, [member.filename, place.parts[0]]) for place, (_, member) in zip(places, images, strict=True)]
    status = path.stat()
    identity = _identity([(path.name, status.st_size, status.st_mtime_ns)])
    classes = _listing.classes_of(places)
    return Inventory("zip", len(units), units, identity, bool(classes), classes, [], len(shown) - len(images))


def _below_common_folder(places: list[PurePosixPath]) -> list[PurePosixPath]:
    """Without the folders that all of them lie in: archives often hold one, which is no class."""
    while all(len(place.parts) > 1 for place in places) and len({place.parts[0] for place in places}) == 1:
        places = [PurePosixPath(*place.parts[1:]) for place in places]
    return places


@lru_cache(maxsize=1)
def _archive(path: str, size: int, modified: int) -> zipfile.ZipFile:
    """Once in a process: the list of a large archive's members takes seconds."""
    return zipfile.ZipFile(path)


def _read_zip(request: Request, labelling: dict[str, Any], block: Block) -> Iterator[Row]:
    status = Path(request.path).stat()
    archive = _archive(request.path, status.st_size, status.st_mtime_ns)
    numbers = {name: number for number, name in enumerate(labelling["classes"])}
    for name, folder in block["units"]:
        yield Row(_listing.printable(PurePosixPath(name)), _member(archive, name), numbers[folder] if numbers else -1)


def _member(archive: zipfile.ZipFile, name: str) -> bytes | CorruptImageError:
    """A member's bytes; not more than are allowed, whatever its header says."""
    try:
        mode = archive.getinfo(name).external_attr >> 16
        if stat.S_ISLNK(mode):
            return CorruptImageError(UNREADABLE, "is a link in an archive")
        with archive.open(name) as stream:
            content = stream.read(LARGEST_BYTES + 1)
    except Exception as error:  # an archive is hostile bytes too: a wrong checksum, a password, a method that nobody knows
        return CorruptImageError(UNREADABLE, f"cannot be unpacked ({str(error) or type(error).__name__})")
    return CorruptImageError(TOO_LARGE, f"has more than {LARGEST_BYTES} bytes") if len(content) > LARGEST_BYTES else content


def _parquet_inventory(request: Request) -> Inventory:
    place = _tables.locate(request.path)
    try:
        files = _tables.parquet_files(place)
        columns, metadata = _tables.find_columns(place, files, request.image_column, request.label_column)
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
        _identity([(file.path, file.size, file.modified) for file in files]),
        columns.label is not None,
        names,
        [],
        0,
    )


def _read_parquet(request: Request, labelling: dict[str, Any], block: Block) -> Iterator[Row]:
    place = _tables.locate(request.path)
    for unit in block["units"]:
        part = _tables.Part(*unit)
        columns = _columns(request, part.file)
        for rows in _tables.read_rows(place.filesystem, part, columns):
            yield from rows


@lru_cache(maxsize=1024)
def _columns(request: Request, file: str) -> _tables.Columns:
    place = _tables.locate(request.path)
    return _tables.find_columns(place, [_tables.Stamp(file, 0, 0)], request.image_column, request.label_column)[0]


def _torchvision_inventory(request: Request) -> Inventory:
    name, _ = _torchvision_name(request)
    data = _torchvision(request)
    units = [(1, number) for number in range(len(data))]
    root = Path(request.root or "")
    stamps = []
    for file in sorted(file for folder in _folders_of(name, root) for file in folder.rglob("*") if file.is_file()):
        status = file.stat()
        stamps.append((file.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns))
    labelled = name != "CelebA"
    return Inventory("torchvision", len(data), units, _identity(stamps), labelled, list(data.classes) if labelled else [], [], 0)


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


def _read_torchvision(request: Request, labelling: dict[str, Any], block: Block) -> Iterator[Row]:
    data = _torchvision(request._replace(download=False))
    shown = request.path.removeprefix(TORCHVISION).replace(":", " ")
    for number in block["units"]:
        try:
            image, target = data[number]
        except OSError as error:  # CelebA's images are files
            image, target = CorruptImageError(UNREADABLE, f"cannot be read ({error})"), -1
        yield Row(f"{shown} {number}", image, target if isinstance(target, int) else -1)


READERS: dict[str, Callable[[Request, dict[str, Any], Block], Iterator[Row]]] = {
    "folder": _read_folder,
    "zip": _read_zip,
    "parquet": _read_parquet,
    "torchvision": _read_torchvision,
}
