"""Penalties on the discriminator, and REGULARIZERS, the table that configs choose from.

Each is a function of (discriminator, real_images, fake_images, labels) and returns one value per sample, [batch], that the
discriminator's step multiplies by a weight and minimises. `discriminator(images, labels)` gives logits, [batch]. Images are
[batch, C, H, W]; norms of gradients are over all of C, H, W. Penalties run in at least float32, outside autocast.
To add one: a function and a line in REGULARIZERS; its weight and its interval are then keys of the config.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from gan_core.shift import shifted

Images = Float[Tensor, "batch C H W"]
Labels = Int64[Tensor, " batch"] | None
PerSample = Float[Tensor, " batch"]
Judge = Callable[[Tensor, Tensor | None], Tensor]

DRAGAN_NOISE = 0.3  # standard deviation: about half of that of images in [-1, 1]
SHIFT = 0.125  # of the image's size, in each direction
ANCHOR_DECAY = 0.99  # 2104.03310, section 4.1


class Given(NamedTuple):
    """What some penalties need beside images.

    `fake_labels` are those the fakes were made with, None where they are `labels`. `uniforms` are numbers from [0, 1), as many
    for each sample as the penalty's `draws` says; None draws them from PyTorch's default generator. `anchors` are the
    running means of the real and of the fake logits; None takes the means of this batch. `judged` says that the images are leaves whose
    logits the discriminator knows, in a graph that begins at them.
    """

    fake_labels: Labels = None
    uniforms: Float[Tensor, "batch draws"] | None = None
    anchors: Float[Tensor, "2"] | None = None
    judged: bool = False


Value = Callable[[Judge, Images, Images, Labels, Given], PerSample]


class Regularizer(NamedTuple):
    """A penalty. The config's weight is `regularizers.<weight_key>`, and `factor` times it multiplies the penalty's value.

    `draws` says how many uniform numbers a sample needs, given the shape [C, H, W] of an image. `of_one_image` says that it is about the
    gradient at one image, which a discriminator with batch norm does not have; `of_the_batch` that it judges the batch's own images, as the
    loss does.
    """

    value: Value
    weight_key: str
    factor: float = 1.0
    draws: Callable[[torch.Size], int] = lambda _: 0
    of_one_image: bool = True
    of_the_batch: bool = False

    def __call__(
        self, discriminator: Judge, real_images: Images, fake_images: Images, labels: Labels = None, given: Given | None = None
    ) -> PerSample:
        """One value per sample, with gradients for the discriminator alone: none for whatever made the images."""
        given = given or Given()
        if not given.judged:
            real_images, fake_images = real_images.detach(), fake_images.detach()
        if given.uniforms is None and (count := self.draws(real_images.shape[1:])):
            given = given._replace(uniforms=torch.rand(len(real_images), count, dtype=real_images.dtype, device=real_images.device))
        if given.fake_labels is None:
            given = given._replace(fake_labels=labels)
        return self.value(discriminator, real_images, fake_images, labels, given)


def gradient(discriminator: Judge, images: Images, labels: Labels) -> Float[Tensor, "batch pixels"]:
    """The gradient of each image's logit with respect to that image, in a graph so that it can be trained on."""
    images = images if images.requires_grad and images.is_leaf else images.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(discriminator(images, labels).sum(), images, create_graph=True)
    flat: Tensor = slope.flatten(1)
    return flat


def r1(discriminator: Judge, real_images: Images, fake_images: Images, labels: Labels, given: Given) -> PerSample:
    """|grad_x D(x)|^2 at real images; Mescheder et al. 2018 (1801.04406), eq. 9, with weight gamma/2."""
    return gradient(discriminator, real_images, labels).square().sum(1)


def r2(discriminator: Judge, real_images: Images, fake_images: Images, labels: Labels, given: Given) -> PerSample:
    """|grad_x D(x)|^2 at fake images; 1801.04406, eq. 10, with weight gamma/2."""
    return gradient(discriminator, fake_images, given.fake_labels).square().sum(1)


def _between(real_images: Images, fake_images: Images, given: Given) -> Images:
    """A uniform point on the segment from each fake to its real image; 1704.00028, algorithm 1, line 5."""
    assert given.uniforms is not None
    return fake_images.detach().lerp(real_images, given.uniforms[:, 0, None, None, None])


def gp(discriminator: Judge, real_images: Images, fake_images: Images, labels: Labels, given: Given) -> PerSample:
    """(|grad_x D| - 1)^2 between real and fake images: WGAN-GP (1704.00028, eq. 3), two-sided."""
    slope = gradient(discriminator, _between(real_images, fake_images, given), labels)
    return (_norm(slope) - 1.0).square()


def gp_one_sided(discriminator: Judge, real_images: Images, fake_images: Images, labels: Labels, given: Given) -> PerSample:
    """max(0, |grad_x D| - 1)^2 between real and fake images; 1704.00028, section 4; 1709.08894, eq. 8."""
    slope = gradient(discriminator, _between(real_images, fake_images, given), labels)
    return (_norm(slope) - 1.0).relu().square()


def gp_zero_centred(discriminator: Judge, real_images: Images, fake_images: Images, labels: Labels, given: Given) -> PerSample:
    """|grad_x D|^2 between real and fake images; Thanh-Tung et al. 2019 (1902.03984), eq. 7."""
    return gradient(discriminator, _between(real_images, fake_images, given), labels).square().sum(1)


def dragan(discriminator: Judge, real_images: Images, fake_images: Images, labels: Labels, given: Given) -> PerSample:
    """(|grad_x D| - 1)^2 around the real images: DRAGAN (1705.07215, section 2.3).

    The noise is normal with standard deviation DRAGAN_NOISE, the same whatever the batch: the usual code takes a share of the
    batch's own deviation, which would change with the number of ranks.
    """
    assert given.uniforms is not None
    noise = torch.erfinv(2.0 * given.uniforms - 1.0).nan_to_num(0.0, 0.0, 0.0) * 2**0.5
    around = real_images + DRAGAN_NOISE * noise.view_as(real_images)
    return (_norm(gradient(discriminator, around, labels)) - 1.0).square()


def bcr(discriminator: Judge, real_images: Images, fake_images: Images, labels: Labels, given: Given) -> PerSample:
    """(D(x) - D(shifted x))^2 of real and of fake images: balanced consistency (2002.04724, algorithm 1).

    Each pair is shifted by up to SHIFT of its size, with its border mirrored. The paper also flips images; that is left out, since a
    mirrored digit or letter is not one. Needs images of at least 8x8, for a shift of a pixel.
    """
    real_logits, fake_logits = discriminator(real_images, labels), discriminator(fake_images, given.fake_labels)
    real_shifted = discriminator(_shifted(real_images, given), labels)
    fake_shifted = discriminator(_shifted(fake_images, given), given.fake_labels)
    return (real_logits - real_shifted).square() + (fake_logits - fake_shifted).square()


def lecam(discriminator: Judge, real_images: Images, fake_images: Images, labels: Labels, given: Given) -> PerSample:
    """(D(x) - a_f)^2 + (D(G(z)) - a_r)^2, each side against the running mean of the other: LeCam (2104.03310, eq. 4)."""
    real_logits, fake_logits = discriminator(real_images, labels), discriminator(fake_images, given.fake_labels)
    anchors = torch.stack([real_logits.mean(), fake_logits.mean()]).detach() if given.anchors is None else given.anchors
    return (real_logits - anchors[1]).square() + (fake_logits - anchors[0]).square()


def _norm(slope: Float[Tensor, "batch pixels"]) -> PerSample:
    """The Euclidean norm, with gradient 0 and not NaN where it is 0."""
    square = slope.square().sum(1)
    flat = square == 0.0
    return torch.where(flat, 1.0, square).sqrt().masked_fill(flat, 0.0)


def largest_shift(size: int) -> int:
    """By how many pixels `bcr` shifts an image of `size` pixels."""
    return int(size * SHIFT)


def _shifted(images: Images, given: Given) -> Images:
    assert given.uniforms is not None
    margins = largest_shift(images.shape[2]), largest_shift(images.shape[3])
    down, right = (margin - (given.uniforms[:, place] * (2 * margin + 1)).long() for place, margin in enumerate(margins))
    return shifted(images, down, right, margins=margins, mode="reflect")


REGULARIZERS: dict[str, Regularizer] = {
    "r1": Regularizer(r1, "r1_gamma", factor=0.5, of_the_batch=True),
    "r2": Regularizer(r2, "r2_gamma", factor=0.5, of_the_batch=True),
    "gp": Regularizer(gp, "gp_lambda", draws=lambda _: 1),
    "gp_one_sided": Regularizer(gp_one_sided, "gp_one_sided_lambda", draws=lambda _: 1),
    "gp_zero_centred": Regularizer(gp_zero_centred, "gp_zero_centred_lambda", draws=lambda _: 1),
    "dragan": Regularizer(dragan, "dragan_lambda", draws=lambda shape: shape.numel()),
    "bcr": Regularizer(bcr, "bcr_lambda", draws=lambda _: 2, of_one_image=False, of_the_batch=True),
    "lecam": Regularizer(lecam, "lecam_lambda", of_one_image=False, of_the_batch=True),
}
