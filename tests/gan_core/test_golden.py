"""Loss sequences of short runs, written down once. A refactor leaves them as they are; a change of the computation says so and writes
new ones: `python -m tests.gan_core.test_golden`."""

import json
import tempfile
from pathlib import Path

import pytest

from tests.gan_core.ranks import R3GAN, STYLEGAN2
from tests.support import noise_images, tiny_trainer, write_parquet

GOLDEN = Path(__file__).parent.parent / "golden" / "losses.json"
DCGAN = {"network__name": "dcgan", "network__generator__width": 8, "network__discriminator__width": 8}
CASES = {
    "mlp": {},
    "mlp minimax 3:1": {"loss__name": "minimax", "step_ratio": "3:1"},
    "mlp 1:2 conditional": {"step_ratio": "1:2", "network__conditional": True},
    "mlp wgan_gp": {"variant": "wgan_gp"},
    "mlp r3gan, lazy r1": {"variant": "r3gan", "regularizers__r1_interval": 4},
    "mlp mmd, lecam": {"loss__name": "mmd", "regularizers__lecam_lambda": 0.3},
    "mlp f_jeffreys, packed": {"variant": "f_jeffreys", "network__packing": 2},
    "dcgan": DCGAN,
    "dcgan clipped, accumulated": {**DCGAN, "accumulation_steps": 2, "optimizer__generator__clip_norm": 0.01},
    "stylegan2, lazy r1": STYLEGAN2,
    "r3gan conditional": {**R3GAN, "network__conditional": True},
    "sngan conditional, 32 pixels": {
        "variant": "sngan_hinge",
        "network__name": "sngan",
        "network__generator": {"width": 2},
        "network__discriminator": {"width": 2},
        "network__conditional": True,
        "data__name": "parquet",
    },
}


def losses(options):
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        if options.get("data__name") == "parquet":
            path = write_parquet(Path(folder) / "noise.parquet", noise_images(64, size=32)[0], [index % 3 for index in range(64)])
            options = {**options, "data__path": str(path), "data__cache_dir": folder}
        trainer = tiny_trainer(precision="float64", total_kimg=0.32, schedule__report_kimg=0.016, **options)
        trainer.run(reports.append)
    keys = ("d/loss", "g/loss", "d/gradient_norm", "quality/kid_pixels")
    return [{key: report.metrics[key] for key in keys if key in report.metrics} for report in reports]


@pytest.mark.parametrize("case", CASES)
def test_losses_are_what_they_were(case):
    expected = json.loads(GOLDEN.read_text())[case]
    for step, (found, wanted) in enumerate(zip(losses(CASES[case]), expected, strict=True)):
        assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12), f"report {step}"


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({case: losses(options) for case, options in CASES.items()}, indent=1) + "\n")
