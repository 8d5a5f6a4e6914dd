"""How many of Stacked-MNIST's 1000 modes a generator reaches, and how evenly, by a classifier of single digits."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

DIGITS = 10
MODES = DIGITS**3
AT_ONCE = 1024  # images; three times as many digits


def evaluate(fake_images: Float[Tensor, "images 3 height width"], classifier: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """`modes_stacked_mnist`: modes with at least one image, of 1000; `reverse_kl_stacked_mnist`: KL(fake || uniform) in nats.

    `classifier` gives probabilities [n, 10] of images [n, 1, height, width] in [-1, 1]: `probabilities` of the extractor `lenet`, built for
    gan_core.data.stacked_mnist.digits at this resolution; the extractor `stacked_lenet` gives those of all modes.
    An image's mode is the likeliest digit of each of its channels, so noise too counts as some mode.

    Two protocols are published. VEEGAN (1705.07761) and PacGAN (1712.04086) classify 26,000 images, Unrolled GAN (1611.02163) and R3GAN
    (2501.05441) 25,600. Their figures differ by more than those counts: classifiers and networks differ too, so rows of different
    papers should not be mixed. State the count and the classifier's test accuracy beside these scores.

    What perfect samples reach: n images from the uniform distribution give 1000 modes (7.5e-9 are missed at 25,600 on average) and a KL of
    (1000 - 1) / (2 n) to first order, 0.0192 at 26,000 and 0.0195 at 25,600; it is the bias of counting. Real Stacked-MNIST is further
    away, because MNIST's digits are not equally frequent: that adds 3 * 0.0014 nats, so real data score about 0.0236.

    Raises:
        ValueError: no images, or a classifier that does not give finite probabilities of 10 digits.
    """
    if not len(fake_images):
        raise ValueError("stacked_mnist: no fake_images; give at least one, and 26,000 or 25,600 for a published protocol")
    places = torch.tensor([DIGITS**2, DIGITS, 1])
    modes = torch.cat([(_digits(part, classifier) * places).sum(1) for part in fake_images.split(AT_ONCE)])
    return of_modes(modes)


def of_modes(modes: Int64[Tensor, " images"]) -> dict[str, float]:
    """The same scores from the mode of each image, 0 ... 999."""
    shares = torch.bincount(modes, minlength=MODES).double() / len(modes)
    reached = shares[shares > 0.0]
    return {
        "modes_stacked_mnist": float(len(reached)),
        "reverse_kl_stacked_mnist": float((reached * (reached.log() + math.log(MODES))).sum()),
    }


def _digits(images: Tensor, classifier: Callable[[Tensor], Tensor]) -> Tensor:
    """The digit in each channel, [images, 3]."""
    channels = images.flatten(0, 1).unsqueeze(1)
    probabilities = classifier(channels)
    if probabilities.shape != (len(channels), DIGITS):
        raise ValueError(
            f"stacked_mnist: the classifier gave {tuple(probabilities.shape)} for {len(channels)} digits, not {(len(channels), DIGITS)}; "
            f"give one trained on plain MNIST"
        )
    if not probabilities.isfinite().all():
        raise ValueError("stacked_mnist: the classifier gave NaN or infinite probabilities; the images or its weights are broken")
    likeliest: Tensor = probabilities.argmax(1).cpu().unflatten(0, (-1, 3))
    return likeliest
