"""Train a GAN through Ray Train and see it in MLflow.

`raygan train CONFIG [key=value ...]`; as a Ray job's entrypoint `python -m pipelines.train CONFIG [key=value ...]`.
"""

import argparse
import sys
from collections.abc import Sequence

from pipelines.packaged import packaged
from pipelines.signals import status_of
from pipelines.statuses import USAGE


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 failed, 2 bad input (nothing was started), 130 Ctrl-C, 143 SIGTERM."""
    options = parser().parse_intermixed_args(arguments)
    try:
        return _train(options)
    except KeyboardInterrupt as interruption:  # while a training runs it has an answer of its own
        print("\ninterrupted", file=sys.stderr)
        return status_of(interruption)


def _train(options: argparse.Namespace) -> int:
    from gan_core.overrides import dumps  # PyTorch comes with it, for seconds: after the words were found to be in order
    from pipelines.plan import check, make_plan, nothing_to_do

    try:
        plan = make_plan(options)
        if plan.finished:
            assert plan.resume is not None, "only a run can be finished"
            return nothing_to_do(plan.name, plan.resume)
        if options.print_config:
            print(dumps(plan.config.model_dump()), end="")
            return 0
        ready = check(plan.config, local=options.local)
    except ValueError as error:
        print(f"raygan train: {error}", file=sys.stderr)
        return USAGE
    from pipelines import conduct  # it imports MLflow, which takes seconds: after the checks that do without it

    for caution in ready.cautions:
        print(f"raygan train: caution: {caution}", file=sys.stderr)
    return conduct.run(plan, ready, local=options.local)


def parser() -> argparse.ArgumentParser:
    """Of this command's words; `raygan submit` reads them too."""
    parser = argparse.ArgumentParser(prog="raygan train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "words", nargs="*", metavar="CONFIG key=value", help=f"a YAML file or a packaged config ({', '.join(packaged())}), then overrides"
    )
    past = parser.add_mutually_exclusive_group()
    past.add_argument("--resume", metavar="RUN", help="continue an MLflow run from its last checkpoint, in the same run")
    past.add_argument("--once", metavar="NAME", help="start the run of this name, or go on with it; for jobs that are started again")
    past.add_argument("--from-run", metavar="RUN", help="start a new run with the config of a past one")
    parser.add_argument("--local", action="store_true", help="one worker in this process, without Ray: for debugging")
    parser.add_argument("--print-config", action="store_true", help="print the resolved config as YAML and stop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
