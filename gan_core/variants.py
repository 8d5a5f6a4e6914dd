"""Loss variants: a loss with the regularisers, step ratio and Adam settings that its paper gives it, under one name.

Every variant sets every key that any variant sets, so that changing `variant` leaves nothing of the old one behind. Learning rates
are not part of a variant: they belong to the network and the batch. The papers of WGAN and of R1 used RMSProp; here it is Adam
without momentum (beta1 = 0).
"""

from typing import Any

UNCLIPPED = None


def _variant(
    loss: str,
    *,
    objective: str = "exact",
    step_ratio: str = "1:1",
    betas: tuple[float, float] = (0.5, 0.999),
    clip_norm: float | None = UNCLIPPED,
    **regularizers: Any,
) -> dict[str, Any]:
    adam = {"beta1": betas[0], "beta2": betas[1], "clip_norm": clip_norm}
    return {
        "loss": {"name": loss, "generator_objective": objective},
        "step_ratio": step_ratio,
        "optimizer": {"generator": dict(adam), "discriminator": dict(adam)},
        "regularizers": regularizers,
    }


VARIANTS: dict[str, dict[str, Any]] = {
    "dcgan": _variant("non_saturating"),  # 1511.06434, section 4
    "lsgan": _variant("least_squares"),  # 1611.04076, section 4
    "wgan": _variant("wasserstein", step_ratio="5:1", betas=(0.0, 0.99), clip_weight=0.01),  # 1701.07875, algorithm 1
    "wgan_gp": _variant("wasserstein", step_ratio="5:1", betas=(0.0, 0.9), gp_lambda=10.0),  # 1704.00028, algorithm 1
    "sngan_hinge": _variant("hinge", step_ratio="5:1", betas=(0.0, 0.9), spectral_norm=True),  # 1802.05957, section 4
    "r1": _variant("non_saturating", betas=(0.0, 0.99), r1_gamma=10.0),  # 1801.04406, section 5
    # 2501.05441: both at every step, because lazy ones fail (table 1 and its discussion).
    "r3gan": _variant("relativistic", betas=(0.0, 0.99), r1_gamma=1.0, r2_gamma=1.0),
    # 1606.00709. The alternative objective of section 3.2 where the exact one's gradient vanishes on fakes that D is sure of; a
    # bound on the gradient's norm where T or its conjugate is exponential.
    "f_kl": _variant("f_kl", objective="alternative", clip_norm=1.0),
    "f_reverse_kl": _variant("f_reverse_kl", clip_norm=1.0),
    "f_pearson": _variant("f_pearson", objective="alternative"),
    "f_neyman": _variant("f_neyman", clip_norm=1.0),
    "f_squared_hellinger": _variant("f_squared_hellinger", objective="alternative", clip_norm=1.0),
    "f_jensen_shannon": _variant("f_jensen_shannon", objective="alternative"),
    "f_gan": _variant("f_gan", objective="alternative"),
    "f_jeffreys": _variant("f_jeffreys", objective="alternative", clip_norm=1.0),
    "f_total_variation": _variant("f_total_variation"),
}

# What a variant decides, as dotted keys: choosing another one drops these from a config first.
OWNED = (
    "loss",
    "regularizers",
    "step_ratio",
    *(f"optimizer.{player}.{key}" for player in ("generator", "discriminator") for key in ("beta1", "beta2", "clip_norm")),
)
