"""Decoded images on disk: written once under a lock, complete or absent, memory-mapped by every worker of a node."""

import json
import math
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from gan_core.data._tables import Stamp
from gan_core.paging import Pages

VERSION = 2  # to be raised when the same bytes shall become other pixels


class Stored(NamedTuple):
    """The manifest, the images as a memory map [count, C, H, W] uint8 with its pages, and the labels [count] int64 or None."""

    manifest: dict[str, Any]
    images: Tensor
    labels: Tensor | None
    pages: Pages | None


def folder(cache_dir: str | None) -> Path:
    """Where caches lie: `cache_dir`, else $RAYGAN_CACHE, else ~/.cache/raygan."""
    try:
        return Path(cache_dir or require_local(os.environ.get("RAYGAN_CACHE") or "~/.cache/raygan")).expanduser()
    except ValueError as error:
        raise ValueError(f"$RAYGAN_CACHE: {error}") from None


def require_local(path: str) -> str:
    """The path, if it is one of this machine: an address would become a folder named `s3:`.

    Raises:
        ValueError: it is an address.
    """
    if "://" in path:
        raise ValueError(
            f"an address, at {path.partition('://')[0]}://, and only folders of this machine can be used here: caches are mapped into "
            f"memory, and images of an object store are read from Parquet files (data.name=parquet; `raygan prepare` makes them)"
        )
    return path


def stamps_of(files: Sequence[Path]) -> list[Stamp]:
    """A file counts as the same while its path, size and modification time are."""
    return [Stamp(str(file), status.st_size, status.st_mtime_ns) for file in files for status in [file.stat()]]


@contextmanager
def entry(folder: Path, stamps: Sequence[Stamp], settings: dict[str, Any]) -> Iterator["Entry"]:
    """The cache entry of these files under these settings, locked against other processes."""
    key = sha256(json.dumps([VERSION, stamps, settings], sort_keys=True).encode()).hexdigest()[:24]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"data.cache_dir: cannot create {folder} ({error.strerror}); set it to a folder that can be written") from None
    if not os.access(folder, os.W_OK):
        raise ValueError(f"data.cache_dir: cannot write to {folder}; set it to a folder that can be written")
    with FileLock(folder / f"{key}.lock"):
        yield Entry(folder / key)


class Entry:
    """One folder: images.bin, labels.bin and manifest.json."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def is_complete(self) -> bool:
        """Whether all is there, and as large as it was written: a disk's failure may have cut it."""
        try:
            manifest = json.loads((self.folder / "manifest.json").read_text())
            sizes = {name: (self.folder / name).stat().st_size for name in ("images.bin", "labels.bin")}
            count = manifest["count"]
            return sizes == {"images.bin": count * math.prod(manifest["shape"]), "labels.bin": 8 * count * manifest["labelled"]}
        except (OSError, ValueError, TypeError, LookupError, RecursionError):
            return False

    @contextmanager
    def writer(self, channels: int, resolution: int) -> Iterator["Writer"]:
        """A writer whose files appear all at once, when the block ends without an error."""
        temporary = self.folder.parent / f".writing-{self.folder.name}"
        for left in (temporary, self.folder):  # by a process that was killed; incomplete
            shutil.rmtree(left, ignore_errors=True)
        temporary.mkdir()
        try:
            with (temporary / "images.bin").open("wb") as images:
                writer = Writer(temporary, images, (channels, resolution, resolution))
                yield writer
            writer.finish()
            temporary.replace(self.folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def read(self) -> Stored:
        """What the writer wrote."""
        manifest = json.loads((self.folder / "manifest.json").read_text())
        count, shape = manifest["count"], manifest["shape"]
        if count == 0:
            return Stored(manifest, torch.empty(0, *shape, dtype=torch.uint8), None, None)
        pages = Pages(self.folder / "images.bin")
        images = torch.from_numpy(pages.array().reshape(count, *shape))
        labels = torch.from_numpy(np.fromfile(self.folder / "labels.bin", np.int64)) if manifest["labelled"] else None
        return Stored(manifest, images, labels, pages)


class Writer:
    """Appends images and labels, hashing the content as it goes; keeps the list of dropped rows."""

    def __init__(self, folder: Path, images: BinaryIO, shape: tuple[int, int, int]) -> None:
        self.folder, self.images, self.shape = folder, images, shape
        self.labels: list[int] = []
        self.corrupt: list[str] = []
        self.conversions: dict[str, int] = {}
        self.count = 0
        self.content_hash: str | None = None
        self.digest = sha256(str(shape).encode())

    def add(self, pixels: np.ndarray[Any, np.dtype[np.uint8]], label: int | None) -> None:
        """One image [C, H, W]."""
        content = pixels.tobytes()
        self.images.write(content)
        self.digest.update(content)
        self.count += 1
        if label is not None:
            self.labels.append(label)

    def extend(self, pixels: memoryview, count: int) -> None:
        """Several images, of content that `content_hash` will name."""
        self.images.write(pixels)
        self.count += count

    def drop(self, reason: str) -> None:
        self.corrupt.append(reason)

    def finish(self) -> None:
        labels = np.asarray(self.labels, np.int64)
        labels.tofile(self.folder / "labels.bin")
        self.digest.update(labels.tobytes())
        manifest = {
            "shape": self.shape,
            "count": self.count,
            "labelled": bool(self.labels),
            "content_hash": self.content_hash or self.digest.hexdigest(),
            "corrupt": self.corrupt,
            "conversions": self.conversions,
        }
        (self.folder / "manifest.json").write_text(json.dumps(manifest))


@lru_cache
def warn_once(report: str) -> None:
    """Report dropped rows once in a process, however often the data set is opened."""
    warnings.warn(report, stacklevel=3)
