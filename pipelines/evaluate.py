"""Judge generators against real images, in one pass for all metrics, and log the scores to their MLflow runs.

`raygan evaluate TARGET ... [key=value ...]`, where a TARGET is an MLflow run id, a checkpoint folder, a model (models:/... or runs:/...),
a folder of images, or Parquet files; as a Ray job's entrypoint `python -m pipelines.evaluate TARGET ...`.
"""

import argparse
import sys
from collections.abc import Sequence

from pipelines.statuses import FAILED, USAGE


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 a metric could not be measured, 2 bad input (nothing was logged)."""
    options = parser().parse_intermixed_args(arguments)
    from gan_core.overrides import dumps, merge, parse, validate  # PyTorch comes with it, for seconds: after the words were in order
    from pipelines.config import EvaluateConfig

    try:
        words = [word for word in options.words if is_target(word)]
        config = validate(merge({}, dict(parse(word) for word in options.words if not is_target(word))), EvaluateConfig)
        if options.print_config:
            print(dumps(config.model_dump()), end="")
            return 0
        if not words:
            raise ValueError("give something to judge: a run id, a checkpoint, a models:/ address, a folder of images or a Parquet file")
        from pipelines import judgement  # it imports MLflow, which takes seconds: after the checks that do without it

        failed = judgement.judge(words, config, best=options.best)
    except ValueError as error:
        print(f"raygan evaluate: {error}", file=sys.stderr)
        return USAGE
    return FAILED if failed else 0


def is_target(word: str) -> bool:
    """Whether a word of the command line is something to judge, and no setting."""
    return "=" not in word or "/" in word.partition("=")[0]


def parser() -> argparse.ArgumentParser:
    """Of this command's words; `raygan submit` reads them too."""
    parser = argparse.ArgumentParser(prog="raygan evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "words",
        nargs="*",
        metavar="TARGET key=value",
        help="what to judge, then settings such as extractor.name=inception data.path=test.parquet fake_count=50000",
    )
    parser.add_argument("--best", action="store_true", help="of a run, the best checkpoint instead of the last")
    parser.add_argument("--print-config", action="store_true", help="print the settings, with all defaults, and stop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
