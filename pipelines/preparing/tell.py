"""What is said of a preparation: how far it is, what came of it, and why it is not ready for training."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

from pipelines.preparing import state
from pipelines.preparing.inventory import Block
from pipelines.preparing.shard import Record

LINE_EVERY_SECONDS = 5.0
DROPPED_SHOWN = 10


def watched(made: Iterable[Record], blocks: list[Block], done: dict[int, Record]) -> Iterator[Record]:
    """The records as they come, with a bar on a terminal, and plain lines elsewhere."""
    counts = {block["number"]: block["count"] for block in blocks}
    before = sum(counts[number] for number in done)
    total, came, dropped, began = sum(counts.values()), 0, sum(len(record["dropped"]) for record in done.values()), time.monotonic()
    last = began
    bar = tqdm(total=total, initial=before, unit=" images", unit_scale=True, disable=not sys.stderr.isatty(), dynamic_ncols=True)
    with bar:
        for record in made:
            came += counts[record["number"]]
            dropped += len(record["dropped"])
            bar.update(counts[record["number"]])
            if dropped:
                bar.set_postfix_str(f"{dropped} dropped", refresh=False)
            now = time.monotonic()
            if bar.disable and now - last >= LINE_EVERY_SECONDS:
                last, speed = now, came / (now - began)
                left = tqdm.format_interval((total - before - came) / speed)
                print(f"{before + came}/{total} images  {speed:.0f} images/s  {dropped} dropped  eta {left}", file=sys.stderr, flush=True)
            yield record


def summary(address: str, about: dict[str, Any], *, made: int, seconds: float) -> str:
    """For the end: images, time, what was dropped and converted, in the data set at `address`."""
    kept, size = about["count"], sum(shard["bytes"] for shard in about["shards"])
    shape = f"{about['channels']}x{about['resolution']}x{about['resolution']}"
    classes = f"{len(about['classes'])} classes" if about["labelled"] else "no labels"
    lines = [
        f"{kept} images {shape}, {classes}, in {len(about['shards'])} shards ({made} made now), {size / 1e6:.1f} MB",
        f"time         {seconds:.1f} s" + (f", {about['found'] / seconds:.0f} images/s" if made == len(about["shards"]) else ""),
    ]
    for what, counts in (("dropped", about["dropped_by_reason"]), ("converted", about["converted"])):
        if counts:
            lines.append(f"{what:12} {', '.join(f'{count} {name}' for name, count in counts.items())}")
    if about["other_files"]:
        lines.append(f"passed over  {about['other_files']} files whose names are not those of images")
    if kept:
        lines += [
            f"mean         {', '.join(f'{value:.4f}' for value in about['mean'])} of 1, standard deviation "
            f"{', '.join(f'{value:.4f}' for value in about['standard_deviation'])}",
            f"preview      {_inside(address, state.PREVIEW)}",
        ]
    return "\n".join(lines)


def _inside(address: str, name: str) -> str:
    """A file's address: options of an object store come after it."""
    folder, mark, options = address.partition("?") if "://" in address else (address, "", "")
    return f"{folder.rstrip('/')}/{name}{mark}{options}"


def refusal(address: str, about: dict[str, Any], max_dropped: float) -> str:
    """Why the data set is not ready for training, and the remedies."""
    dropped, found = about["dropped"], about["found"]
    shown = [f"  {item['source']}: {item['detail']}" for item in dropped[:DROPPED_SHOWN]]
    if len(dropped) > DROPPED_SHOWN:
        shown.append(f"  and {len(dropped) - DROPPED_SHOWN} more")
    reasons = about["dropped_by_reason"]
    remedies = ["repair them"]
    remedies += ["--resize lanczos"] if "other size" in reasons else []
    remedies += ["--upscale"] if "too small" in reasons else []
    remedies += [f"--max-dropped {-(-len(dropped) * 10_000 // found) / 10_000:g}"] if about["count"] else []
    again = "; with --max-dropped the same shards are taken" if about["count"] else ""
    return (
        f"raygan prepare: {len(dropped)} of {found} images were dropped, more than --max-dropped {max_dropped:g}:\n"
        + "\n".join(shown)
        + f"\nAll of them are in {_inside(address, state.REPORT)}. Not ready for training: {', or '.join(remedies)}{again}."
    )
