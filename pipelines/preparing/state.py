"""What the destination holds already, and whether this call may go on with it."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any
from uuid import uuid4

import pyarrow.fs
from filelock import FileLock, Timeout

from gan_core.data import _shards
from gan_core.data._decode import UNREADABLE
from gan_core.data._tables import Place
from pipelines.preparing import places
from pipelines.preparing.shard import Record, record_name

PREVIEW, REPORT = "preview.png", "report.json"
OURS = re.compile(
    rf"(part-[0-9]{{5,}}\.(parquet|json)|{re.escape(_shards.MANIFEST)}|{re.escape(_shards.UNFINISHED)}|{PREVIEW}|{REPORT})(\.[0-9a-f]{{32}}\.new)?"
)
LEFT_BEHIND = re.compile(r".*\.[0-9a-f]{32}\.new")
LOCK = ".raygan-prepare.lock"


def key_of(settings: dict[str, Any]) -> str:
    """A short name of the settings."""
    return sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:24]


@contextmanager
def locked(place: Place) -> Iterator[bool]:
    """Make the folder, and keep other calls of this command out while the block lasts; whether that could be done, which needs a file
    system with locks. In an object store the owner's mark that `begin` leaves must do.

    Raises:
        ValueError: the folder cannot be written to, or another call is at work there.
    """
    places.require_writable(place)
    if not isinstance(place.filesystem, pyarrow.fs.LocalFileSystem):
        yield False
        return
    lock = FileLock(f"{place.path}/{LOCK}", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"another `raygan prepare` is at work in {place.address}; wait for its end, or give another folder") from None
    except (OSError, NotImplementedError):  # a network file system without locks
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def begin(place: Place, settings: dict[str, Any], *, overwrite: bool, alone: bool) -> str:
    """Make the destination ready for shards of these settings, and note them there; returns the mark of this call as the owner.

    With `overwrite` nothing of what is there is used. `alone` says that no other call can be writing there.

    Raises:
        ValueError: it holds something else.
    """
    there = places.sizes(place)
    foreign = sorted(name for name in there if not OURS.fullmatch(name) and not name.startswith("."))
    if foreign:
        raise ValueError(f"{place.address} holds {foreign[0]}, which `raygan prepare` did not write; give another folder")
    ours = [name for name in there if OURS.fullmatch(name)]
    finished, unfinished = (places.read_json(place, name) for name in (_shards.MANIFEST, _shards.UNFINISHED))
    before = (unfinished or finished or {}).get("settings")
    if ours and before != settings and not overwrite:
        told = _differences(before, settings) if isinstance(before, dict) else ["no settings that can be read"]
        raise ValueError(f"{place.address} holds another preparation: {'; '.join(told)}; --overwrite replaces it, or give another folder")
    owner = uuid4().hex
    # First, so that a call that ends here leaves a folder that nobody takes for a finished one.
    places.write(place, _shards.UNFINISHED, json.dumps({"settings": settings, "owner": owner}, indent=1).encode())
    anew = overwrite or before != settings or (finished is not None and finished.get("settings") != settings)
    old = [name for name in ours if name != _shards.UNFINISHED and (anew or LEFT_BEHIND.fullmatch(name))]
    order = sorted(old, key=lambda name: name != _shards.MANIFEST)
    places.delete(place, [name for name in order if alone or not LEFT_BEHIND.fullmatch(name)])
    return owner


def reopen(place: Place) -> None:
    """Take back dataset.json, because shards are to be made again."""
    if _shards.MANIFEST in places.sizes(place):
        places.delete(place, [_shards.MANIFEST])


def require_owner(place: Place, owner: str) -> None:
    """Check that no other call has begun in the destination since `begin`.

    Raises:
        RuntimeError: one has.
    """
    if (places.read_json(place, _shards.UNFINISHED) or {}).get("owner") != owner:
        raise RuntimeError(f"another `raygan prepare` has begun in {place.address} meanwhile, so that its shards may be of both")


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return [
        "the source has changed" if key == "identity" else f"{key.replace('_', ' ')} {before.get(key)}, now {now.get(key)}"
        for key in changed
    ]


def complete(place: Place, key: str, count: int) -> dict[int, Record]:
    """The records of shards that are there already, by number; without those that lack an image which may be readable now."""
    there = places.sizes(place)
    found = {}
    for number in range(count):
        if record_name(number) in there and _shards.shard_name(number) in there:
            record = places.read_json(place, record_name(number))
            if record and record.get("key") == key and record.get("bytes") == there[_shards.shard_name(number)]:
                found[number] = record
    return {number: record for number, record in found.items() if not any(reason == UNREADABLE for _, reason, _ in record["dropped"])}
