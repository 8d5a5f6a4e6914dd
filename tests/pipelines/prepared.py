"""Calls of `raygan prepare` in this process, and what they leave; for several test files."""

import json
from pathlib import Path

from gan_core.data import parquet
from pipelines import prepare


def run(source, destination, *words, workers=1):
    """The command in this process; returns its status and, where there is one, the description that it wrote."""
    status = prepare.main([str(source), str(destination), "--workers", str(workers), *map(str, words)])
    for name in ("dataset.json", "report.json"):
        if (Path(destination) / name).is_file():
            return status, json.loads((Path(destination) / name).read_text())
    return status, None


def loaded(destination):
    return parquet.load(path=str(destination))


def write(root, images):
    for name, content in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
