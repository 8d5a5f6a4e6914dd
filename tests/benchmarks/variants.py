"""Every loss variant on the demo's config, 30 kimg each: none may end in NaN, and each leaves its distance.

python -m tests.benchmarks.variants > table.md
"""

import argparse
import time
from importlib.resources import files

import torch

from gan_core import Trainer
from gan_core.config import GanConfig
from gan_core.overrides import load, merge, validate
from gan_core.variants import VARIANTS

READ = {
    "quality/kid_pixels": "after",
    "d/loss": "D loss",
    "g/loss": "G loss",
    "d/accuracy_real": "accuracy real",
    "d/accuracy_fake": "fake",
    "d/gradient_norm": "gradient of D",
    "g/gradient_norm": "of G",
    "d/bound_train": "bound train",
    "d/bound_held_out": "held out",
    "g/feature_variance_ratio": "variance ratio",
}


def run(variant, kimg):
    """The first and the last report of one training, and its seconds."""
    tree = load(files("pipelines") / "configs" / "digits.yaml")
    tree.pop("ray")
    overrides = {"variant": variant, "total_kimg": kimg, "schedule.evaluate_kimg": kimg, "schedule.checkpoint_kimg": kimg}
    trainer, reports, started = Trainer(validate(merge(tree, overrides), GanConfig), device="cpu"), [], time.perf_counter()
    trainer.run(reports.append)
    return reports[0].metrics, reports[-1], time.perf_counter() - started, trainer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kimg", type=float, default=30.0)
    parser.add_argument("--variant", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| " + " | ".join(["variant", "ratio", "D steps", "G steps", "kid_pixels before", *READ.values(), "alarms", "seconds"]) + " |")
    print("|---" * (len(READ) + 7) + "|")
    for variant in given.variant:
        first, last, seconds, trainer = run(variant, given.kimg)
        cells = [
            variant,
            trainer.config.step_ratio,
            trainer.state.d_steps,
            trainer.state.g_steps,
            f"{first['quality/kid_pixels']:.3f}",
            *(f"{last.metrics[key]:.4f}" if key == "quality/kid_pixels" else f"{last.metrics[key]:.2f}" for key in READ),
            ", ".join(last.alarms) or "-",
            f"{seconds:.0f}",
        ]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
