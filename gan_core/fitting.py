"""Whether loss, regularisers, augmentation, data, networks and the number of ranks go together."""

from torch import nn
from torch.nn.utils import parametrize

from gan_core.config import GanConfig
from gan_core.datatypes import ImageDataset
from gan_core.losses import LOSSES
from gan_core.regularizers import REGULARIZERS, largest_shift

SMALLEST_AUGMENTED = 8  # pixels


def require_fitting(config: GanConfig, dataset: ImageDataset, generator: nn.Module, discriminator: nn.Module, *, ranks: int) -> None:
    """Check loss, regularisers and augmentation against data, networks and the number of ranks.

    Raises:
        ValueError: they cannot work together; what would do.
    """
    in_force = config.regularizers.in_force
    per_image = [REGULARIZERS[name].weight_key for name in in_force if REGULARIZERS[name].of_one_image]
    batch_norm = has_batch_norm(discriminator)
    if batch_norm and config.regularizers.spectral_norm:
        raise ValueError(
            "regularizers.spectral_norm: the discriminator has batch norm, which undoes it by rescaling; set "
            "network.discriminator.norm=none, or layer"
        )
    if per_image and batch_norm:
        raise ValueError(
            f"regularizers.{per_image[0]}: the discriminator has batch norm, so that its gradient is not that of one image "
            f"(1704.00028, section 4); set network.discriminator.norm=layer, or none"
        )
    if "bcr" in in_force and not largest_shift(dataset.resolution):
        raise ValueError(f"regularizers.bcr_lambda: images of {dataset.resolution} pixels cannot be shifted; it needs at least 8")
    if config.regularizers.path_length_weight and not hasattr(generator, "synthesise"):
        raise ValueError(
            f"regularizers.path_length_weight: it is about a generator's w, which {config.network.name} does not have; set it to 0, or "
            f"network.name=stylegan2"
        )
    _require_augmentable(config, dataset)
    _require_whole_groups(config, discriminator, ranks)
    if LOSSES[config.loss.name].on_witness:
        if "logit" not in dict(discriminator.named_children()):
            raise ValueError(
                f"loss.name: {config.loss.name} needs a discriminator whose last layer is called logit; see gan_core/judging.py"
            )
        if config.batch_size // config.network.packing < 2:
            raise ValueError(f"batch_size: the loss {config.loss.name} compares samples, and needs 2 at least, given {config.batch_size}")


def has_batch_norm(network: nn.Module) -> bool:
    """Whether it looks across the images that it is given at once."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def judges_together(discriminator: nn.Module) -> bool:
    """Whether reals and fakes may be one batch, with the same logits as apart, and its network says that this is faster."""
    return getattr(discriminator, "faster_together", False) and repeats_itself(discriminator)


def repeats_itself(discriminator: nn.Module) -> bool:
    """Whether an image's logit is the same in any batch and at any call.

    Batch norm looks at the others, dropout draws anew, and spectral norm takes a power iteration at each call, by a parametrisation or,
    as PyTorch's former one, by a hook.
    """
    kinds = (nn.modules.batchnorm._BatchNorm, parametrize.ParametrizationList)
    if draws_noise(discriminator):
        return False
    return not any(isinstance(module, kinds) or module._forward_pre_hooks for module in discriminator.modules())


def draws_noise(network: nn.Module) -> bool:
    """Whether it has dropout of any kind."""
    return any(isinstance(module, nn.modules.dropout._DropoutNd) for module in network.modules())


def _require_augmentable(config: GanConfig, dataset: ImageDataset) -> None:
    asked = config.augment
    if (asked.name or asked.mirror) and dataset.mixture is not None:
        raise ValueError(f"augment: the data set {dataset.name} is points, and not images; set augment.name=null and augment.mirror=false")
    if asked.name and (dataset.channels not in (1, 3) or dataset.resolution < SMALLEST_AUGMENTED):
        raise ValueError(
            f"augment.name: {asked.name} is for images of 1 or 3 channels and at least {SMALLEST_AUGMENTED} pixels, given "
            f"{dataset.channels} channels and {dataset.resolution} pixels; set it to null"
        )


def _require_whole_groups(config: GanConfig, discriminator: nn.Module, ranks: int) -> None:
    """Statistics over groups of images are the same for any division of a batch into whole groups."""
    group = getattr(discriminator, "minibatch_stddev_group", None) or 1
    parts = ranks * config.accumulation_steps
    decisions = config.batch_size // config.network.packing
    if decisions // parts % group:
        raise ValueError(
            f"batch_size: {config.batch_size} leaves {decisions // parts} decisions for each of {ranks} ranks x "
            f"{config.accumulation_steps} accumulation steps, which network.discriminator.minibatch_stddev_group={group} does not divide; "
            f"try {_near(config.batch_size, parts * config.network.packing * group)}"
        )


def _near(size: int, unit: int) -> str:
    """The multiples of `unit` next to `size`."""
    below = size // unit * unit
    return f"batch_size {below} or {below + unit}" if below else f"batch_size {unit}"
