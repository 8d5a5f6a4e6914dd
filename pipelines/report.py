"""Write the page of what a sweep found, or has found so far, from MLflow alone.

`raygan report SWEEP [key=value ...]`: SWEEP is a sweep's name, or its run's id. The page and its pictures go to a folder here, and to
the sweep's run.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gan_core import registry
from gan_core.wording import brief
from pipelines.statuses import USAGE


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 no such sweep."""
    options = parser().parse_intermixed_args(arguments)
    from gan_core.overrides import parse  # PyTorch comes with it, for seconds: after the words were found to be in order

    try:
        uri = tracking_uri(dict(parse(word) for word in options.words))
        from pipelines import tracking
        from pipelines.sweeps import ledger, publishing

        tracker = tracking.reach(uri)
        run = ledger.find(tracker, options.sweep)
        if run is None:
            known = ledger.names(tracker)
            near = registry.suggestion(options.sweep, known)
            raise ValueError(f"no sweep {brief(options.sweep)} in {tracker.uri}{near}; known: {', '.join(known) or 'none'}")
        folder = _folder(options.out, run.data.tags[ledger.SWEEP])
    except ValueError as error:
        print(f"raygan report: {error}", file=sys.stderr)
        return USAGE
    folder = publishing.write(tracker, run.info.run_id, folder)
    print(f"{folder / publishing.PAGE}")
    return 0


def _folder(given: Path | None, sweep: str) -> Path:
    """Where the page goes.

    Raises:
        ValueError: nothing can be made there, or the sweep's name, which a server gives, is none.
    """
    if given is None and not re.fullmatch(r"[\w.-]+", sweep):
        raise ValueError(f"the sweep is called {brief(sweep)}, which is no name for a folder; give --out")
    folder = given or Path(f"report-{sweep}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"--out: {brief(str(folder))} cannot be made ({error}); give another folder") from None
    return folder


def tracking_uri(overrides: dict[str, Any]) -> str | None:
    """The one setting there is.

    Raises:
        ValueError: another one is given.
    """
    unknown = [key for key in overrides if key != "mlflow.tracking_uri"]
    if unknown:
        raise ValueError(f"{unknown[0]}: a report has one setting, mlflow.tracking_uri")
    uri: str | None = overrides.get("mlflow.tracking_uri")
    return uri


def parser() -> argparse.ArgumentParser:
    """Of this command's words; `raygan submit` reads them too."""
    parser = argparse.ArgumentParser(prog="raygan report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", help="a sweep's name, or the id of its run")
    parser.add_argument("words", nargs="*", metavar="mlflow.tracking_uri=URI", help="where it is tracked, unless here")
    parser.add_argument("--out", type=Path, help="the folder to write to; report-NAME unless given")
    return parser


if __name__ == "__main__":
    sys.exit(main())
