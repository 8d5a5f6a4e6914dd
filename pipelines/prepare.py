"""Make a data set ready for training: decode, resize, check and pack images into Parquet shards of raw pixels.

`raygan prepare SRC DST --resolution R`. SRC is a folder of images (sub-folders are classes), a zip archive of such, a Parquet file or a
folder of them (columns `image` and `label`, also Hugging Face's), or torchvision:MNIST, FashionMNIST, CIFAR10 or CelebA, with a split:
torchvision:CelebA:valid. DST is a folder, or an address such as s3://bucket/folder. Then:

    raygan train CONFIG data.name=parquet data.path=DST
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import PIL
from tqdm import tqdm

from gan_core.data._decode import FILTERS, CorruptImageError, Layout, quietly, size_of
from gan_core.data._tables import Place
from pipelines.preparing import finish, places, sources, state, work
from pipelines.preparing.inventory import Block, Inventory, Request
from pipelines.preparing.shard import Job, Record
from pipelines.signals import terminable
from pipelines.statuses import FAILED, INTERRUPTED, USAGE

VERSION = 1  # of the settings: to be raised when the same source shall become other pixels
SHARDS_WANTED = 32
MEGABYTES = (4.0, 128.0)  # between which a shard lies, unless told otherwise
LINE_EVERY_SECONDS = 5.0
DROPPED_SHOWN = 10


class Plan(NamedTuple):
    """What is to be done: the blocks of the source, what is the same for all, and the settings that name the result."""

    inventory: Inventory
    blocks: list[Block]
    job: Job
    settings: dict[str, Any]
    place: Place


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 failed or too many images dropped, 2 bad input (nothing was started), 130 interrupted."""
    options, began = _parser().parse_args(arguments), time.monotonic()
    words = list(sys.argv[1:] if arguments is None else arguments)
    with ExitStack() as stack:
        try:
            plan = _plan(options)
            alone = stack.enter_context(state.locked(plan.place))
            owner = state.begin(plan.place, plan.settings, overwrite=options.overwrite, alone=alone)
        except (ValueError, OSError) as error:
            print(f"raygan prepare: {error}", file=sys.stderr)
            return USAGE
        again = f"go on with: raygan prepare {shlex.join(word for word in words if word != '--overwrite')}"
        return _carry_out(plan, options, owner=owner, again=again, began=began)


def _carry_out(plan: Plan, options: argparse.Namespace, *, owner: str, again: str, began: float) -> int:
    """Make the shards that are missing, and tell what came of it; returns the exit status. `again` says how an interrupted call goes on."""
    done: dict[int, Record] = {}
    try:
        with terminable():
            done = state.complete(plan.place, plan.job.key, len(plan.blocks))
            missing = [block for block in plan.blocks if block["number"] not in done]
            if missing:
                state.reopen(plan.place)
            made = work.records(missing, plan.job, workers=options.workers, ray=options.ray)
            for record in _watched(made, plan, done):
                done[record["number"]] = record
            records = [done[number] for number in range(len(plan.blocks))]
            found = finish.Found(plan.inventory.labelled, plan.inventory.classes, plan.inventory.unusable, plan.inventory.others)
            about = finish.describe(records, plan.settings, found)
            dropped = len(about["dropped"])
            accepted = about["count"] > 0 and dropped <= options.max_dropped * about["found"]
            finish.keep(plan.place, about, records, accepted=accepted, owner=owner)
    except KeyboardInterrupt:
        print(f"\ninterrupted; {len(done)} of {len(plan.blocks)} shards are complete; {again}", file=sys.stderr)
        return INTERRUPTED
    except (RuntimeError, OSError, ValueError) as error:  # ValueError: pyarrow's, of damaged files, and of labels out of bounds
        print(f"\nraygan prepare: {error}\n{len(done)} of {len(plan.blocks)} shards are complete; {again}", file=sys.stderr)
        return FAILED
    print(_summary(plan, about, made=len(missing), seconds=time.monotonic() - began))
    if not accepted:
        print(_refusal(options, about), file=sys.stderr)
        return FAILED
    return 0


def _plan(options: argparse.Namespace) -> Plan:
    """Read the command line and the source's list of images.

    Raises:
        ValueError: anything about them is wrong.
    """
    path = options.source if options.source.startswith(sources.TORCHVISION) or "://" in options.source else _absolute(options.source)
    root = _absolute(options.root) if options.root else None
    request = Request(path, options.image_column, options.label_column, root, options.download)
    destination = options.destination if "://" in options.destination else _absolute(options.destination)
    _require_apart(path, destination)
    inventory = sources.take_inventory(request)
    labelling = sources.labelling_of(inventory, request)
    channels = options.channels or _channels(inventory, request, labelling)
    megabytes = options.shard_megabytes or _megabytes(inventory.total, channels * options.resolution**2)
    blocks = sources.cut(inventory, max(1, int(megabytes * 1e6) // (channels * options.resolution**2)))
    settings = {
        "source": path,
        "kind": inventory.kind,
        "identity": inventory.identity,
        "resolution": options.resolution,
        "channels": channels,
        "resize": options.resize,
        "upscale": options.upscale,
        "image_column": options.image_column if inventory.kind == "parquet" else None,
        "label_column": options.label_column if inventory.kind == "parquet" else None,
        "shard_megabytes": megabytes,
        "pillow": PIL.__version__,  # decoders of other versions may make other pixels
        "settings_version": VERSION,
    }
    layout = Layout(options.resolution, channels, options.resize, options.upscale)
    key = state.key_of(settings)
    request = request._replace(download=False)
    job = Job(inventory.kind, request, layout, inventory.labelled, inventory.classes or [], labelling, destination, key)
    place = places.locate(destination)
    return Plan(inventory, blocks, job, settings, place)


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _require_apart(source: str, destination: str) -> None:
    """The preview and the shards must not become part of the source.

    Raises:
        ValueError: they would.
    """
    if ":" in source or "://" in destination:
        return
    inside = Path(destination).resolve().is_relative_to(Path(source).resolve()) or Path(source).resolve().is_relative_to(destination)
    if inside:
        raise ValueError(f"{destination} and the source {source} lie in each other; give a folder beside it")


def _channels(inventory: Inventory, request: Request, labelling: dict[str, Any]) -> int:
    """Those of the first image that can be decoded, as in training."""
    with quietly():
        for block in sources.cut(inventory, 1024):
            for row in sources.read(inventory.kind, request, labelling, block):
                try:
                    return size_of(row.content)[2]
                except CorruptImageError:
                    continue
    return 3


def _megabytes(count: int, image_bytes: int) -> float:
    low, high = MEGABYTES
    return min(max(count * image_bytes / 1e6 / SHARDS_WANTED, low), high)


def _watched(made: Iterable[Record], plan: Plan, done: dict[int, Record]) -> Iterator[Record]:
    """The records as they come, with a bar on a terminal, and plain lines elsewhere."""
    counts = {block["number"]: block["count"] for block in plan.blocks}
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


def _summary(plan: Plan, about: dict[str, Any], *, made: int, seconds: float) -> str:
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
            f"preview      {_inside(plan.place.address, state.PREVIEW)}",
        ]
    return "\n".join(lines)


def _inside(address: str, name: str) -> str:
    """A file's address: options of an object store come after it."""
    folder, mark, options = address.partition("?") if "://" in address else (address, "", "")
    return f"{folder.rstrip('/')}/{name}{mark}{options}"


def _refusal(options: argparse.Namespace, about: dict[str, Any]) -> str:
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
        f"raygan prepare: {len(dropped)} of {found} images were dropped, more than --max-dropped {options.max_dropped:g}:\n"
        + "\n".join(shown)
        + f"\nAll of them are in {_inside(options.destination, state.REPORT)}. Not ready for training: {', or '.join(remedies)}{again}."
    )


def _fraction(text: str) -> float:
    value = float(text)
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"{text} is no fraction; give one from 0 to below 1")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="raygan prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SRC", help="folder, zip archive, Parquet file or folder, torchvision:NAME[:SPLIT]")
    parser.add_argument("destination", metavar="DST", help="a folder, or an address such as s3://bucket/folder")
    parser.add_argument("--resolution", type=_positive, required=True, metavar="R", help="images become R x R pixels")
    parser.add_argument("--channels", type=int, choices=(1, 3), help="grey or colour; that of the first image unless given")
    parser.add_argument(
        "--resize", choices=("never", *FILTERS), default="never", help="a filter: short side to R, centre cropped; never: drop other sizes"
    )
    parser.add_argument("--upscale", action="store_true", help="enlarge images that are smaller than R, instead of dropping them")
    parser.add_argument(
        "--max-dropped", type=_fraction, default=0.0, metavar="FRACTION", help="how much may be dropped; more is an error, after the report"
    )
    parser.add_argument("--image-column", default="image", metavar="NAME", help="of Parquet files")
    parser.add_argument("--label-column", metavar="NAME", help="of Parquet files; `label` where there is one")
    parser.add_argument("--root", metavar="FOLDER", help="where torchvision keeps its files")
    parser.add_argument("--download", action="store_true", help="let torchvision fetch them")
    parser.add_argument(
        "--shard-megabytes", type=float, metavar="MB", help="of pixels in a shard; a 32nd of all, between 4 and 128, unless given"
    )
    parser.add_argument("--workers", type=_positive, metavar="N", help="tasks at once; one for each CPU unless given")
    parser.add_argument(
        "--ray", choices=("auto", "always", "never"), default="auto", help="auto: Ray Data takes over what is worth its start"
    )
    parser.add_argument("--overwrite", action="store_true", help="make all of DST anew, also if it holds another preparation")
    return parser


if __name__ == "__main__":
    sys.exit(main())
