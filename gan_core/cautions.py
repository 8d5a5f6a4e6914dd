"""Settings that are allowed and probably not meant: a run starts with them, and says so first."""

from torch import nn

from gan_core.config import GanConfig
from gan_core.losses import LOSSES
from gan_core.regularizers import REGULARIZERS

NORMALISING = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm)


def cautions(config: GanConfig, discriminator: nn.Module) -> list[str]:
    """A sentence for each such setting: the key, what becomes of it, and what would do."""
    found = []
    regularizers, loss = config.regularizers, LOSSES[config.loss.name]
    slope_is_held = any(REGULARIZERS[name].of_one_image for name in regularizers.in_force)
    if config.loss.name == "wasserstein" and not (slope_is_held or regularizers.clip_weight or regularizers.spectral_norm):
        found.append(
            "loss.name: wasserstein is a distance only while something bounds the discriminator's slope, and nothing does here; set "
            "variant=wgan_gp, or regularizers.gp_lambda=10, or regularizers.clip_weight=0.01, or regularizers.spectral_norm=true"
        )
    if loss.on_witness and not slope_is_held:
        found.append(
            f"loss.name: {config.loss.name} compares features that can grow without a gradient penalty; set regularizers.gp_lambda=1"
        )
    norm = config.network.discriminator.get("norm")
    if norm not in (None, "none") and not any(isinstance(module, NORMALISING) for module in discriminator.modules()):
        found.append(
            f"network.discriminator.norm: {norm} has no effect, because this discriminator has no layer to normalise at this resolution; "
            "leave it out"
        )
    return found
