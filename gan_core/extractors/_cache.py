"""Trained extractors on disk: written once under a lock, complete or absent, read by every process of a node."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


@contextmanager
def entry(folder: Path, key: str) -> Iterator["Entry"]:
    """The entry named `key` of the cache in `folder`, locked against other processes.

    Raises:
        ValueError: `folder` cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cache_dir: cannot create {folder} ({error.strerror}); set it to a folder that can be written") from None
    if not os.access(folder, os.W_OK):
        raise ValueError(f"cache_dir: cannot write to {folder}; set it to a folder that can be written")
    with FileLock(folder / f"{key}.lock"):
        yield Entry(folder / key)


class Entry:
    """One folder: weights.safetensors and facts.json."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def is_complete(self) -> bool:
        return (self.folder / "facts.json").is_file()

    def write(self, weights: Mapping[str, Tensor], facts: dict[str, Any]) -> None:
        """Both files appear at once, or neither does."""
        temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=self.folder.parent))
        try:
            save_file({name: tensor.contiguous() for name, tensor in weights.items()}, temporary / "weights.safetensors")
            (temporary / "facts.json").write_text(json.dumps(facts, indent=1))
            temporary.replace(self.folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The weights, on the CPU, and the facts.

        Raises:
            ValueError: a file is damaged.
        """
        try:
            return load_file(self.folder / "weights.safetensors"), json.loads((self.folder / "facts.json").read_text())
        except (OSError, ValueError, SafetensorError) as error:
            raise self.damaged(str(error)) from None

    def damaged(self, reason: str) -> ValueError:
        return ValueError(f"the cached extractor {self.folder} is damaged ({reason}); delete that folder, and it is trained again")
