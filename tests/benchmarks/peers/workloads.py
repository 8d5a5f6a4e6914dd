"""What is trained: for each workload the networks, the game and raygan's config of it, as plain values that both environments read.

On two cores a round takes from milliseconds (mlp) to a second (sngan-32, with a quarter of its paper's widths). Those marked for a GPU
have the papers' sizes.
"""

from typing import NamedTuple

SIDES = ("handwritten", "mimicry", "torchgan", "lightning")
IF_ASKED = ("floor", "handwritten_fresh")
WRITTEN_OUT = tuple(f"{side}_plain" for side in SIDES)


class Workload(NamedTuple):
    """One training. A round is `d_steps` steps of D and one of G, each on a batch of its own; `against` are its sides beside raygan."""

    network: str
    resolution: int
    channels: int
    z_dim: int
    against: tuple[str, ...]
    generator: dict = {}  # noqa: RUF012 - never written to
    discriminator: dict = {}  # noqa: RUF012
    loss: str = "non_saturating"
    d_steps: int = 1
    spectral_norm: bool = False
    betas: tuple[float, float] = (0.5, 0.999)
    batch: int = 64
    regularizers: dict = {}  # noqa: RUF012
    period: int = 1  # rounds after which lazy penalties are due again

    @property
    def images(self):
        """Real images of a round."""
        return self.d_steps * self.batch


SNGAN = {"loss": "hinge", "d_steps": 5, "spectral_norm": True, "betas": (0.0, 0.9)}  # 1802.05957, section 4
# What lucidrains' trainer does by default: hinge, a penalty of weight 10 on the norm of both slopes at each fourth step, mixed styles.
STYLEGAN2 = {"loss": "hinge", "period": 4, "regularizers": {"r1_gamma": 20.0, "r2_gamma": 20.0, "r1_interval": 4, "r2_interval": 4}}

WORKLOADS = {
    "mlp": Workload("mlp", 28, 1, 64, SIDES),
    "dcgan-32": Workload("dcgan", 32, 3, 128, (*SIDES, *WRITTEN_OUT, "torchgan_own")),
    "sngan-32": Workload("sngan", 32, 3, 128, (*SIDES, *WRITTEN_OUT, "mimicry_own"), {"width": 16}, {"width": 16}, **SNGAN),
    "stylegan2-32": Workload(
        "stylegan2",
        32,
        3,
        512,
        ("lucidrains",),
        {"capacity": 1024, "max_width": 256, "style_mixing": 0.9},
        {"capacity": 2048, "max_width": 512},
        batch=8,
        **STYLEGAN2,
    ),
    # for a GPU
    "dcgan-64": Workload("dcgan", 64, 3, 128, (*SIDES, *WRITTEN_OUT, "torchgan_own")),
    "sngan-32-paper": Workload("sngan", 32, 3, 128, (*SIDES, *WRITTEN_OUT, "mimicry_own"), **SNGAN),
    "stylegan2-256": Workload("stylegan2", 256, 3, 512, ("lucidrains",), {"style_mixing": 0.9}, batch=16, **STYLEGAN2),
}
DEFAULT = {"cpu": ("mlp", "dcgan-32", "sngan-32", "stylegan2-32"), "cuda": ("mlp", "dcgan-64", "sngan-32-paper", "stylegan2-256")}


def networks(work, device):
    """Generator and discriminator of gan_core, ready for training, for sides that take any network."""
    from importlib import import_module

    from gan_core.spectral import spectrally_normalised

    module = import_module(f"gan_core.networks.{work.network}")
    shape = {"resolution": work.resolution, "channels": work.channels, "num_classes": 0}
    generator = module.generator(**shape, z_dim=work.z_dim, **work.generator)
    discriminator = module.discriminator(**shape, **work.discriminator)
    if work.spectral_norm:
        discriminator = spectrally_normalised(discriminator)
    return generator.to(device).train(), discriminator.to(device).train()


def config(work, path, cache, words=()):
    """raygan's config: what its users get, with scores, pictures and checkpoints out of the way, as those of the peers are.

    No average of the generator, because no peer has one in the time measured, and float32 on every device.
    """
    from gan_core.config import GanConfig
    from gan_core.overrides import merge, parse, validate

    never = 1e9
    adam = {"lr": 2e-4, "beta1": work.betas[0], "beta2": work.betas[1]}
    data = {"name": "parquet", "path": str(path), "resolution": work.resolution, "channels": work.channels, "resize": "lanczos"}
    tree = {
        "data": data | {"cache_dir": str(cache)},
        "network": {"name": work.network, "z_dim": work.z_dim, "generator": work.generator, "discriminator": work.discriminator},
        "loss": {"name": work.loss},
        "regularizers": {"spectral_norm": work.spectral_norm, **work.regularizers},
        "optimizer": {"generator": adam, "discriminator": adam},
        "step_ratio": f"{work.d_steps}:1",
        "batch_size": work.batch,
        "precision": "float32",
        "ema_halflife_kimg": None,
        "total_kimg": never,
        "schedule": {"sample_kimg": never, "evaluate_kimg": never, "checkpoint_kimg": never},
        "diagnostics": {"enabled": False, "held_out": 0.0},
    }
    return validate(merge(tree, dict(map(parse, words))), GanConfig)
