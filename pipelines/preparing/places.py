"""Files of the prepared data set, in a folder or in an object store: written whole or not at all."""

import json
from functools import lru_cache
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.fs

from gan_core.data import _tables
from gan_core.data._tables import Place


@lru_cache
def locate(address: str) -> Place:
    """Where the address is, found once in a process."""
    return _tables.locate(address)


def require_writable(place: Place) -> None:
    """Make the folder, and check that it takes files.

    Raises:
        ValueError: it does not.
    """
    try:
        place.filesystem.create_dir(place.path, recursive=True)
        probe = f"{place.path}/.raygan-{uuid4().hex}"
        with place.filesystem.open_output_stream(probe) as stream:
            stream.write(b"writable")
        place.filesystem.delete_file(probe)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"cannot write to {place.address} ({error}); give a folder that can be written") from None


def write(place: Place, name: str, content: Any) -> None:
    """Put a file there. Object stores show it when it is complete; on a file system it gets its name then."""
    path = f"{place.path}/{name}"
    local = isinstance(place.filesystem, pyarrow.fs.LocalFileSystem)
    written = f"{path}.{uuid4().hex}.new" if local else path
    with place.filesystem.open_output_stream(written) as stream:
        stream.write(content)
    if local:
        place.filesystem.move(written, path)


def read_json(place: Place, name: str) -> dict[str, Any] | None:
    """A JSON file's content, None where there is none, or it is damaged."""
    try:
        with place.filesystem.open_input_stream(f"{place.path}/{name}") as stream:
            found = json.loads(stream.read())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def sizes(place: Place) -> dict[str, int]:
    """The files there, by name, with their sizes in bytes."""
    selector = pyarrow.fs.FileSelector(place.path, allow_not_found=True)
    entries = place.filesystem.get_file_info(selector)
    return {entry.base_name: entry.size for entry in entries if entry.type == pyarrow.fs.FileType.File}


def delete(place: Place, names: list[str]) -> None:
    """Delete files."""
    for name in names:
        place.filesystem.delete_file(f"{place.path}/{name}")
