"""Make a data set ready for training: decode, resize, check and pack images into Parquet shards of raw pixels.

`raygan prepare SRC DST --resolution R`. SRC is a folder of images (sub-folders are classes), a zip archive of such, a Parquet file or a
folder of them (columns `image` and `label`, also Hugging Face's), or torchvision:MNIST, FashionMNIST, CIFAR10 or CelebA, with a split:
torchvision:CelebA:valid. DST is a folder, or an address such as s3://bucket/folder. Then:

    raygan train CONFIG data.name=parquet data.path=DST
"""

import argparse
import math
import os
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import PIL
import pyarrow.fs

from gan_core.data._decode import FILTERS, CorruptImageError, Layout, quietly, size_of
from gan_core.data._tables import Place, possible
from pipelines.preparing import finish, places, sources, state, tell, work
from pipelines.preparing.inventory import Block, Inventory, Request
from pipelines.preparing.shard import Job, Record
from pipelines.preparing.torchvision_sets import TORCHVISION
from pipelines.signals import status_of, terminable
from pipelines.statuses import FAILED, USAGE

VERSION = 2  # of the settings: to be raised when the same source shall become other pixels
SHARDS_WANTED = 32
MEGABYTES = (4.0, 128.0)  # between which a shard lies, unless told otherwise


class Plan(NamedTuple):
    """What is to be done: the blocks of the source, what is the same for all, and the settings that name the result."""

    inventory: Inventory
    blocks: list[Block]
    job: Job
    settings: dict[str, Any]
    place: Place


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 failed or too many images dropped, 2 bad input (nothing was started), 130 interrupted."""
    options, began = parser().parse_args(arguments), time.monotonic()
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
            for record in tell.watched(made, plan.blocks, done):
                done[record["number"]] = record
            records = [done[number] for number in range(len(plan.blocks))]
            found = finish.Found(plan.inventory.labelled, plan.inventory.classes, plan.inventory.unusable, plan.inventory.others)
            about = finish.describe(records, plan.settings, found)
            dropped = len(about["dropped"])
            accepted = about["count"] > 0 and dropped <= options.max_dropped * about["found"]
            finish.keep(plan.place, about, records, accepted=accepted, owner=owner)
    except KeyboardInterrupt as interruption:
        print(f"\ninterrupted; {len(done)} of {len(plan.blocks)} shards are complete; {again}", file=sys.stderr)
        return status_of(interruption)
    except (RuntimeError, OSError, ValueError) as error:  # ValueError: pyarrow's, of damaged files, and of labels out of bounds
        print(f"\nraygan prepare: {error}\n{len(done)} of {len(plan.blocks)} shards are complete; {again}", file=sys.stderr)
        return FAILED
    print(tell.summary(plan.place.address, about, made=len(missing), seconds=time.monotonic() - began))
    if not accepted:
        print(tell.refusal(plan.place.address, about, options.max_dropped), file=sys.stderr)
        return FAILED
    return 0


def _plan(options: argparse.Namespace) -> Plan:
    """Read the command line and the source's list of images.

    Raises:
        ValueError: anything about them is wrong.
    """
    path = options.source if options.source.startswith(TORCHVISION) else _absolute(options.source)
    root = _absolute(options.root) if options.root else None
    request = Request(path, options.image_column or "image", options.label_column, root, options.download)
    destination = _absolute(options.destination)
    _require_apart(path, destination)
    if options.upscale and options.resize == "never":
        raise ValueError("--upscale has no effect under --resize never; give a filter, such as --resize lanczos")
    _require_effect(options, ("root", "download"), effective=path.startswith(TORCHVISION), of="torchvision:NAME")
    inventory = sources.take_inventory(request)
    _require_effect(options, ("image_column", "label_column"), effective=inventory.kind == "parquet", of="Parquet files")
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
        "image_column": request.image_column if inventory.kind == "parquet" else None,
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
    """From the root; addresses stay as they are."""
    return possible(path if "://" in path else os.path.abspath(os.path.expanduser(path)))


def _require_effect(options: argparse.Namespace, names: Sequence[str], *, effective: bool, of: str) -> None:
    """Options of another kind of source are errors.

    Raises:
        ValueError: one is given without effect.
    """
    given = [name for name in names if getattr(options, name)]
    if given and not effective:
        raise ValueError(f"--{given[0].replace('_', '-')} is for {of}, and {options.source} is none; leave it out")


def _require_apart(source: str, destination: str) -> None:
    """The preview and the shards must not become part of the source.

    Raises:
        ValueError: they would.
    """
    if source.startswith(TORCHVISION):
        return
    ends = [places.locate(address) for address in (source, destination)]
    if not all(isinstance(end.filesystem, pyarrow.fs.LocalFileSystem) for end in ends):
        return
    left, right = (Path(end.path).resolve() for end in ends)
    if left.is_relative_to(right) or right.is_relative_to(left):
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


def _megabytes_given(text: str) -> float:
    value = float(text)
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no size; give a number of megabytes above 0")
    return value


def parser() -> argparse.ArgumentParser:
    """Of this command's words; `raygan submit` reads them too."""
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
    parser.add_argument("--image-column", metavar="NAME", help="of Parquet files; `image` unless given")
    parser.add_argument("--label-column", metavar="NAME", help="of Parquet files; `label` where there is one")
    parser.add_argument("--root", metavar="FOLDER", help="where torchvision keeps its files")
    parser.add_argument("--download", action="store_true", help="let torchvision fetch them")
    parser.add_argument(
        "--shard-megabytes",
        type=_megabytes_given,
        metavar="MB",
        help="of pixels in a shard; a 32nd of all, between 4 and 128, unless given",
    )
    parser.add_argument("--workers", type=_positive, metavar="N", help="tasks at once; one for each CPU unless given")
    parser.add_argument(
        "--ray", choices=("auto", "always", "never"), default="auto", help="auto: Ray Data takes over what is worth its start"
    )
    parser.add_argument("--overwrite", action="store_true", help="make all of DST anew, also if it holds another preparation")
    return parser


if __name__ == "__main__":
    sys.exit(main())
