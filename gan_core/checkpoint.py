"""A training state in a folder: one file of tensors and plain values, and its checksum. No pickled code is ever loaded."""

import json
from collections.abc import Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Any

import torch

STATE, SUMS = "state.pt", "checkpoint.json"


def save(state: Mapping[str, Any], folder: Path) -> None:
    """Write `state` to `folder`; the checksum file comes last, so that a folder without one is known to be cut short."""
    torch.save(dict(state), folder / STATE)
    note = {"sha256": _digest(folder / STATE), "images_seen": state["images_seen"]}
    temporary = folder / f".{SUMS}"
    temporary.write_text(json.dumps(note))
    temporary.replace(folder / SUMS)


def load(folder: Path) -> dict[str, Any]:
    """The state that `save` wrote, on the CPU.

    Raises:
        ValueError: the folder holds no checkpoint, or its content is not what was written.
    """
    if not (folder / SUMS).is_file() or not (folder / STATE).is_file():
        raise ValueError(f"{folder} holds no complete checkpoint ({STATE} and {SUMS})")
    if _digest(folder / STATE) != json.loads((folder / SUMS).read_text())["sha256"]:
        raise ValueError(f"the checkpoint in {folder} is damaged: {STATE} does not have the checksum noted in {SUMS}")
    state: dict[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    return state


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def load_moments(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Continue from another optimizer's moments with this one's own learning rate and betas."""
    own = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)
