"""Draw from a trained generator: many images, a grid, a film between seeds, the image nearest to a picture; or take it along as files.

`raygan sample TARGET ...`, where a TARGET is an MLflow run id, a checkpoint folder, a model (models:/ID, models:/NAME/VERSION,
models:/NAME@ALIAS, runs:/RUN/generator) or a folder that --export wrote; as a Ray job's entrypoint `python -m pipelines.sample TARGET ...`.

    raygan sample RUN --num 50000 --out fakes.parquet --workers 2
    raygan sample RUN --grid classes.png
    raygan sample RUN --interpolate 1,2,3 --loop --out film.gif
    raygan sample RUN --project picture.png --out projected.png
    raygan sample RUN --export generator/
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.signals import status_of, terminable
from pipelines.statuses import FAILED, USAGE

if TYPE_CHECKING:
    from pipelines.generators import Trained

# What is done, and the options that belong to it; the first one asks for it.
DEEDS = {
    "num": ("out", "first_seed", "label", "truncation", "batch_size", "workers", "gpus_per_worker"),
    "grid": ("columns", "first_seed", "label", "truncation"),
    "interpolate": ("out", "frames", "loop", "label", "truncation"),
    "project": ("out", "space", "label", "candidates", "starts", "steps", "first_seed"),
    "export": (),
}
NEEDS_OUT = ("num", "interpolate", "project")
STRIP = ".png"
FAR = 2.0  # lengths of a random z: a real digit, in the demo's generator, came to 3.5 (LOG.md)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 failed, 2 bad input (nothing was written), 130 interrupted."""
    options = parser().parse_intermixed_args(arguments)
    try:
        deed = deed_of(options)
        uri = tracking_uri(options.words)
        with terminable():
            print(_do(deed, options, uri), flush=True)
    except ValueError as error:
        print(f"raygan sample: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt as interruption:
        print("\ninterrupted; nothing was written", file=sys.stderr)
        return status_of(interruption)
    except Exception as error:  # a worker's errors are of many kinds
        print(f"raygan sample: {str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__}", file=sys.stderr)
        return FAILED
    return 0


def deed_of(options: argparse.Namespace) -> str:
    """What is asked for, checked as far as can be without the generator.

    Raises:
        ValueError: nothing, or two things, or an option that belongs to another one.
    """
    given = {name for name, value in vars(options).items() if value is not None and value is not False}  # 0 is given, and equals False
    asked = [name for name in DEEDS if name in given]
    if len(asked) != 1:
        raise ValueError(f"give one of {', '.join(f'--{name}' for name in DEEDS)}" + (f", given {len(asked)}" if asked else ""))
    (deed,) = asked
    for name in sorted(given - {"target", "words", "best", deed}):
        if name not in DEEDS[deed]:
            with_it = ", ".join(f"--{other}" for other, belonging in DEEDS.items() if name in belonging)
            raise ValueError(f"--{name.replace('_', '-')} has no effect with --{deed}; it is for {with_it}")
    if deed in NEEDS_OUT and options.out is None:
        raise ValueError(f"--{deed} needs --out, the place to write to")
    if options.gpus_per_worker is not None and options.workers == 0:
        raise ValueError("--gpus-per-worker has no effect with --workers 0, which draws in this process")
    return deed


def tracking_uri(words: list[str]) -> str | None:
    """The one setting there is.

    Raises:
        ValueError: another one is given.
    """
    from gan_core.overrides import parse  # PyTorch comes with it, for seconds: after the options were found to be in order

    overrides = dict(parse(word) for word in words)
    if unknown := [key for key in overrides if key != "mlflow.tracking_uri"]:
        raise ValueError(f"{unknown[0]}: sampling has one setting, mlflow.tracking_uri; see raygan sample --help")
    return overrides.get("mlflow.tracking_uri")


def _do(deed: str, options: argparse.Namespace, uri: str | None) -> str:
    """Find the generator and do what is asked for; returns the last words."""
    from pipelines import generators, tracking  # MLflow takes seconds to import: after the checks that do without it
    from pipelines.drawing import outputs, shows

    _require_places(deed, options)
    if options.best:
        generators.require_runs([options.target])
    trained = generators.find(options.target, tracking.reach(uri), best=options.best)
    if deed == "export":
        return _export(trained, Path(options.export))
    if trained.description.shape.points:
        raise ValueError(f"{options.target} makes 2-D points, which are no pictures; --export works, and `raygan evaluate` scores them")
    label = _label(options.label, trained.description.shape.num_classes)
    if deed == "num":
        return _many(trained, label, options)
    if deed == "project":
        return _project(trained, label, options)
    here = shows.studio(trained, label, options.truncation)
    if deed == "grid":
        picture = shows.grid(here, first_seed=options.first_seed or 0, columns=options.columns)
        outputs.write_whole(Path(options.grid), outputs.png(picture))
        return f"grid         {options.grid}"
    film = shows.interpolate(here, options.interpolate, options.frames, Path(options.out).suffix.lower(), closed=options.loop)
    outputs.write_whole(Path(options.out), film)
    return f"interpolated {options.out}"


def _require_places(deed: str, options: argparse.Namespace) -> None:
    """Check that what will be made can be written, before anything is loaded or drawn."""
    from pipelines.drawing import outputs, shows

    if deed == "num":
        return outputs.require_free(options.out)
    if deed == "export":
        return outputs.require_no_folder("--export", options.export)
    option, place = ("--grid", options.grid) if deed == "grid" else ("--out", options.out)
    kinds = (*shows.FILMS, STRIP) if deed == "interpolate" else (STRIP,)
    outputs.require_file(option, place)
    if Path(place).suffix.lower() not in kinds:
        raise ValueError(f"{option}: {place} must end in {' or '.join(kinds)}")
    if deed == "project":
        outputs.require_file(option, str(Path(place).with_suffix(".json")))
    return None


def _label(text: str | None, num_classes: int) -> int | None:
    """The class that is asked for; None is all of them."""
    if text in (None, "all"):
        return None
    if not num_classes:
        raise ValueError(f"--label: this generator has no classes, given {text}; leave it out")
    if not text.isdecimal() or int(text) >= num_classes:
        raise ValueError(f"--label: 0 to {num_classes - 1}, or all, given {text}")
    return int(text)


def _many(trained: "Trained", label: int | None, options: argparse.Namespace) -> str:
    from gan_core.truncation import require_truncation
    from pipelines.drawing import many
    from pipelines.drawing.painter import Recipe

    require_truncation(trained.generator, options.truncation)
    order = many.Order(
        images=options.num,
        first_seed=options.first_seed or 0,
        out=options.out,
        recipe=Recipe(label, options.truncation),
        batch_size=options.batch_size or many.BATCH_SIZE,
        workers=options.workers,
        gpus_per_worker=options.gpus_per_worker,
    )
    return many.draw(trained, order)


def _project(trained: "Trained", label: int | None, options: argparse.Namespace) -> str:
    from gan_core.projection import decibels
    from pipelines.drawing import outputs, shows

    in_w = shows.has_w(trained)
    search = shows.Search(
        space=options.space or ("w" if in_w else "z"),
        first_seed=options.first_seed or 0,
        candidates=options.candidates or shows.CANDIDATES,
        starts=options.starts or shows.STARTS,
        steps=options.steps or shows.STEPS,
    )
    picture, record, found = shows.project(trained, Path(options.project), label, search)
    place = Path(options.out)
    outputs.write_whole(place, picture)
    outputs.write_whole(place.with_suffix(".json"), record)
    length = shows.relative_length(search.space, found)
    far = "" if length is None else f", z {length:.1f} times as long as random ones"
    if length is not None and length > FAR:
        far += ": a picture that the generator was not trained to make"
    of_class = "" if found.latent.labels is None else f", class {int(found.latent.labels[0])}"
    return "\n".join(
        [
            f"projected    {found.error:.2f} grey levels RMSE, {decibels(found.error):.1f} dB PSNR{of_class}{far}",
            f"random       {found.random_error:.2f} grey levels, {decibels(found.random_error):.1f} dB, of {search.candidates} seeds",
            f"picture      {place}: the picture, its projection, the best random image",
            f"latent       {place.with_suffix('.json')}",
        ]
    )


def _export(trained: "Trained", folder: Path) -> str:
    from gan_core import portable, truncation
    from pipelines import export
    from pipelines.drawing import outputs

    about = trained.description
    z_dim, shape = about.gan.network.z_dim, about.shape
    with outputs.whole_folder("--export", folder) as temporary:
        portable.save(temporary, portable.Portable(trained.generator, about))
        model = truncation.truncatable(trained.generator, z_dim=z_dim, num_classes=shape.num_classes)
        export.save_program(temporary / export.PROGRAM, model, z_dim, shape)
    return f"generator    {folder}: {', '.join((*portable.FILES, export.PROGRAM))}"


def parser() -> argparse.ArgumentParser:
    """Of this command's words; `raygan submit` reads them too."""
    parser = argparse.ArgumentParser(prog="raygan sample", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", metavar="TARGET", help="a run id, a checkpoint folder, a models:/ or runs:/ address, an exported folder")
    parser.add_argument("words", nargs="*", metavar="mlflow.tracking_uri=URI", help="where runs and models are tracked, unless here")
    parser.add_argument("--best", action="store_true", help="of a run, the best checkpoint instead of the last")
    parser.add_argument("--label", metavar="CLASS", help="one class, or all (the default): image of seed i is of class i mod classes")
    parser.add_argument(
        "--truncation",
        type=float,
        metavar="T",
        help="better images of fewer kinds: w to its mean by the factor T; or z cut at +-T deviations",
    )
    parser.add_argument("--first-seed", type=_from(0), metavar="S", help="the first image seed (0)")
    parser.add_argument(
        "--out", metavar="PLACE", help="where to: a folder for PNG files, FILE.parquet (also s3:// or gs://), or FILE.gif ..."
    )
    many = parser.add_argument_group("many images")
    many.add_argument("--num", type=_from(1), metavar="N", help="draw N images to --out: seeds S to S+N-1, always the same ones")
    many.add_argument("--batch-size", type=_from(1), metavar="B", help="images that a worker draws at once (1024); changes no image")
    many.add_argument(
        "--workers", type=_from(0), metavar="W", help="actors on Ray; 0 draws in this process, as what takes less than 40 s is unless told"
    )
    many.add_argument("--gpus-per-worker", type=_share, metavar="G", help="GPUs of each, also a fraction (1 where the cluster has GPUs)")
    shown = parser.add_argument_group("pictures")
    shown.add_argument("--grid", metavar="FILE.png", help="a row for each class, the same z along a column; without classes a square")
    shown.add_argument("--columns", type=_from(1), help="of the grid (10; 8 without classes)")
    shown.add_argument("--interpolate", type=_seeds, metavar="SEED,SEED,...", help="a film (.gif, .webp) or a strip (.png) between seeds")
    shown.add_argument("--frames", type=_from(2), metavar="F", help="in all (24 from seed to seed in a film, 8 in a strip)")
    shown.add_argument("--loop", action="store_true", help="back to the first seed at the end")
    nearest = parser.add_argument_group("projection")
    nearest.add_argument(
        "--project", metavar="PICTURE", help="find the image nearest to a picture file; writes --out FILE.png and FILE.json"
    )
    nearest.add_argument("--space", choices=("z", "w"), help="where to search (w where the generator has it)")
    nearest.add_argument("--candidates", type=_from(1), help="random seeds to begin with (1000)")
    nearest.add_argument("--starts", type=_from(1), help="the best of them that go on (8)")
    nearest.add_argument("--steps", type=_from(1), help="of Adam (500)")
    parser.add_argument("--export", metavar="DIR", help="write weights, config and a torch.export program, for use without MLflow")
    return parser


def _from(least: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} on, given {text}")
        return int(text)

    return whole


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share < math.inf:
        raise argparse.ArgumentTypeError(f"must be 0 or more, such as 0.5, given {text}")
    return share


def _seeds(text: str) -> list[int]:
    parts = text.split(",")
    if len(parts) < 2 or not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"give two seeds or more, such as 1,2,3, given {text}")
    return [int(part) for part in parts]


if __name__ == "__main__":
    sys.exit(main())
