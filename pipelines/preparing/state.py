"""What the destination holds already, and whether this call may go on with it."""

import json
import re
from hashlib import sha256
from typing import Any

from gan_core.data import _shards
from gan_core.data._tables import Place
from pipelines.preparing import places
from pipelines.preparing.shard import Record, record_name

PREVIEW, REPORT = "preview.png", "report.json"
OURS = re.compile(
    rf"(part-\d{{5,}}\.(parquet|json)|{re.escape(_shards.MANIFEST)}|{re.escape(_shards.UNFINISHED)}|{PREVIEW}|{REPORT})(\.[0-9a-f]{{32}}\.new)?"
)
LEFT_BEHIND = re.compile(r".*\.[0-9a-f]{32}\.new")


def key_of(settings: dict[str, Any]) -> str:
    """A short name of the settings."""
    return sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:24]


def begin(place: Place, settings: dict[str, Any], *, overwrite: bool) -> None:
    """Make the destination ready for shards of these settings, and note them there.

    Raises:
        ValueError: it cannot be written to, or holds something else.
    """
    places.require_writable(place)
    there = places.sizes(place)
    foreign = sorted(name for name in there if not OURS.fullmatch(name) and not name.startswith("."))
    if foreign:
        raise ValueError(f"{place.address} holds {foreign[0]}, which `raygan prepare` did not write; give another folder")
    before = (places.read_json(place, _shards.MANIFEST) or places.read_json(place, _shards.UNFINISHED) or {}).get("settings")
    if before == settings:
        places.delete(place, [name for name in there if LEFT_BEHIND.fullmatch(name)])
        return
    if there and not overwrite:
        told = _differences(before, settings) if isinstance(before, dict) else ["no settings that can be read"]
        raise ValueError(f"{place.address} holds another preparation: {'; '.join(told)}; --overwrite replaces it, or give another folder")
    places.delete(place, [name for name in sorted(there, key=lambda name: name != _shards.MANIFEST) if OURS.fullmatch(name)])
    places.write(place, _shards.UNFINISHED, json.dumps({"settings": settings}, indent=1).encode())


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return [
        "the source has changed" if key == "identity" else f"{key.replace('_', ' ')} {before.get(key)}, now {now.get(key)}"
        for key in changed
    ]


def complete(place: Place, key: str, count: int) -> dict[int, Record]:
    """The records of shards that are there already, by number."""
    there = places.sizes(place)
    found = {}
    for number in range(count):
        if record_name(number) in there and _shards.shard_name(number) in there:
            record = places.read_json(place, record_name(number))
            if record and record.get("key") == key and record.get("bytes") == there[_shards.shard_name(number)]:
                found[number] = record
    return found
