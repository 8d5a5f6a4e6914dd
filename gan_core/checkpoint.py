"""A training state in a folder: one file of tensors and plain values, and checksums of all that is read back. No code is ever loaded."""

import json
import os
import pickle
import re
from collections.abc import Iterable, Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Any

import torch

STATE, SUMS = "state.pt", "checkpoint.json"
LARGEST_SUMS = 1 << 20  # bytes; that of a checkpoint has some hundreds
NAME, DIGEST = re.compile(r"\w[\w.-]*"), re.compile(r"[0-9a-f]{64}")


class DamagedError(ValueError):
    """A checkpoint's files are not what was written. `reason` says how, for sentences that name the checkpoint themselves."""

    def __init__(self, sentence: str, reason: str = "") -> None:
        super().__init__(sentence)
        self.reason = reason or sentence


def save(state: Mapping[str, Any], folder: Path, *, beside: Iterable[str] = ()) -> None:
    """Write `state` to `folder`, and checksums of it and of the files `beside` that lie there already; everything is on the disk then.

    Raises:
        OSError: the storage does not take it.
    """
    with (folder / STATE).open("wb") as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # PyTorch's own sentence does not say that the disk is full
                raise error.__context__ from None
            raise
    seal(folder, (STATE, *beside), state["images_seen"])


def seal(folder: Path, names: Iterable[str], images_seen: int) -> None:
    """Note the checksums of these files of `folder`, last: a folder without the note is known to be cut short."""
    sums = {name: _digest(folder / name) for name in names}
    for name in sums:
        sync(folder / name)
    temporary = folder / f".{SUMS}"
    # sha256 is where a former version looks.
    temporary.write_text(json.dumps({"sha256": sums[STATE], "images_seen": images_seen, "files": sums}))
    sync(temporary)
    temporary.replace(folder / SUMS)
    sync(folder)


def sync(path: Path) -> None:
    """Have a file, or the entries of a folder, on the disk before this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def verify(folder: Path) -> int:
    """Compare all files with their checksums; returns the checkpoint's images_seen.

    Raises:
        DamagedError: one is missing or is not what was written, or the note of checksums is none.
    """
    images_seen, sums = _read_sums(folder)
    for name, digest in sums.items():
        if not (folder / name).is_file():
            raise _damaged(folder, f"{name} is missing")
        if _digest(folder / name) != digest:
            raise _damaged(folder, f"{name} does not have the checksum noted in {SUMS}")
    return images_seen


def load(folder: Path) -> dict[str, Any]:
    """The state that `save` wrote, on the CPU.

    Raises:
        DamagedError: the folder holds no checkpoint, or its content is not what was written.
        ValueError: it holds something else than tensors and plain values, such as code. None of it was run.
    """
    verify(folder)
    try:
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{folder / STATE} holds something else than tensors and plain values, and is not loaded: {reason}") from None
    if not isinstance(state, dict) or not isinstance(state.get("config"), dict) or not isinstance(state.get("images_seen"), int):
        raise ValueError(f"{folder / STATE} is no state of a training: it has no config, or no images_seen")
    return state


def _read_sums(folder: Path) -> tuple[int, dict[str, str]]:
    if not (folder / SUMS).is_file() or not (folder / STATE).is_file():
        raise DamagedError(f"{folder} holds no complete checkpoint ({STATE} and {SUMS})", f"it is not complete ({STATE} and {SUMS})")
    try:
        with (folder / SUMS).open("rb") as file:
            note = json.loads(file.read(LARGEST_SUMS))
        sums = note.get("files", {STATE: note["sha256"]})  # a former version noted one file
        images_seen = note["images_seen"]
        fine = isinstance(images_seen, int) and STATE in sums and all(map(_is_sum, sums, sums.values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        fine = False
    if not fine:
        raise _damaged(folder, f"{SUMS} is no list of files in that folder with their checksums")
    return images_seen, sums


def _damaged(folder: Path, reason: str) -> DamagedError:
    return DamagedError(f"the checkpoint in {folder} is damaged: {reason}", reason)


def _is_sum(name: object, digest: object) -> bool:
    return isinstance(name, str) and isinstance(digest, str) and bool(NAME.fullmatch(name)) and bool(DIGEST.fullmatch(digest))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def load_moments(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Continue from another optimizer's moments with this one's own learning rate and betas.

    They are copies, laid out as their parameters: the fused Adam goes through memory as it lies, and takes other layouts for wrong
    numbers.
    """
    own = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)
    for parameter, moments in optimizer.state.items():
        for name, moment in moments.items():
            as_weights = name != "step" and moment.shape == parameter.shape
            moments[name] = torch.empty_like(parameter).copy_(moment) if as_weights else moment.clone()
