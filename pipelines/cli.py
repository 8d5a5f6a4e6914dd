"""The `raygan` command: each subcommand is a module with a `main(arguments)` that returns an exit status."""

import importlib
import sys
from collections.abc import Sequence

from gan_core.registry import suggestion

COMMANDS = {
    "prepare": "decode, check and pack images for training",
    "train": "train a GAN through Ray Train, tracked in MLflow",
    "sweep": "search losses, ratios and other settings with Ray Tune, compared in MLflow",
    "report": "a page of what a sweep found, from MLflow",
    "evaluate": "judge runs, checkpoints, models or folders of images against real images",
    "sample": "draw images from a trained generator, show its classes, films and projections, or export it",
    "submit": "run one of these on a Ray cluster, as a job",
    "theory": "check what the textbook says of GANs, and draw it",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the subcommand; returns its exit status, 2 for a command that does not exist."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in COMMANDS:
        status: int = importlib.import_module(f"pipelines.{words[0]}").main(words[1:])
        return status
    asked = words in (["-h"], ["--help"])
    wrong = [f"raygan: unknown command '{words[0]}'{suggestion(words[0], COMMANDS)}"] if words and not asked else []
    usage = ["usage: raygan COMMAND ...; raygan COMMAND --help says more", ""] + [f"  {name:10} {text}" for name, text in COMMANDS.items()]
    print("\n".join(wrong + usage), file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
