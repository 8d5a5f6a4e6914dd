import math

import pytest
import torch

from gan_core import registry
from gan_core.augmentations import ada, diffaugment
from gan_core.augmentations._augmentation import Columns
from gan_core.data import digits
from gan_core.networks import mlp
from gan_core.regularizers import Given, r1

NAMES = registry.choices("gan_core.augmentations")
KINDS = [(diffaugment, "color"), (diffaugment, "translation"), (diffaugment, "cutout"), (ada, "pixel"), (ada, "geometry"), (ada, "color")]
ALWAYS, NEVER = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)


def only(module, kind):
    kinds = {"diffaugment": ("color", "translation", "cutout"), "ada": ("pixel", "geometry", "color")}[module.__name__.rpartition(".")[2]]
    return module.augmentation(**{name: name == kind for name in kinds})


def images(count=6, channels=3, size=16, seed=0):
    return torch.rand(count, channels, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def numbers(augmentation, count=6, seed=1):
    return torch.rand(count, augmentation.draws, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def smooth(count=4, size=32):
    """Waves of low frequency, which interpolation reproduces."""
    places = torch.linspace(0, math.pi, size, dtype=torch.float64)
    waves = torch.cos(places)[:, None] * torch.cos(2 * places)[None, :]
    return (waves * torch.linspace(0.3, 0.9, count, dtype=torch.float64)[:, None, None])[:, None].repeat(1, 3, 1, 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_augmentation_changes_images_and_keeps_their_shape(name, channels):
    augmentation = registry.find("gan_core.augmentations", name).augmentation()
    before = images(channels=channels)
    after = augmentation.apply(before, numbers(augmentation), ALWAYS)
    assert after.shape == before.shape
    assert after.isfinite().all()
    assert ((after - before).abs().amax((1, 2, 3)) > 0.05).all()


@pytest.mark.parametrize(("module", "kind"), KINDS)
def test_nothing_happens_with_probability_0(module, kind):
    augmentation = only(module, kind)
    before = smooth() if module is ada else images()
    after = augmentation.apply(before, numbers(augmentation, len(before)), NEVER)
    torch.testing.assert_close(after[:, :, 6:-6, 6:-6], before[:, :, 6:-6, 6:-6], rtol=0, atol=1e-10)
    torch.testing.assert_close(after, before, rtol=0, atol=0.02)  # at the border the filters see the mirrored image


@pytest.mark.parametrize(("module", "kind"), KINDS)
def test_an_image_is_changed_by_its_own_numbers_alone(module, kind):
    augmentation = only(module, kind)
    before, table = images(), numbers(augmentation)
    whole = augmentation.apply(before, table, ALWAYS)
    for place in range(len(before)):
        one = augmentation.apply(before[place : place + 1], table[place : place + 1], ALWAYS)
        torch.testing.assert_close(one, whole[place : place + 1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("module", "kind"), KINDS)
def test_every_draw_is_used_and_no_more(module, kind):
    augmentation = only(module, kind)
    with pytest.raises(IndexError):
        augmentation.apply(images(), numbers(augmentation)[:, :-1], ALWAYS)
    before, changed = images(40), 0
    table = numbers(augmentation, 40)
    for column in range(augmentation.draws):
        other = table.clone()
        other[:, column] = (other[:, column] + 0.5) % 1.0
        chance = torch.tensor(0.5, dtype=torch.float64)
        changed += not torch.equal(augmentation.apply(before, other, chance), augmentation.apply(before, table, chance))
    assert changed == augmentation.draws


@pytest.mark.parametrize(("module", "kind"), KINDS)
def test_gradients_through_an_augmentation_are_those_of_finite_differences(module, kind):
    augmentation = only(module, kind)
    table = numbers(augmentation, 2)
    before = images(2, size=8).requires_grad_()
    assert torch.autograd.gradcheck(lambda inputs: augmentation.apply(inputs, table, ALWAYS), (before,), fast_mode=True)


@pytest.mark.parametrize("name", NAMES)
def test_each_transformation_is_taken_as_often_as_asked(name):
    """Of 3,000 images at probability 0.3: the share that one transformation changes, within four standard errors."""
    module = registry.find("gan_core.augmentations", name)
    # Of five color changes four show whenever they are taken, and a luma flip in half of the cases.
    kind, chance = {"diffaugment": ("cutout", 0.3), "ada": ("color", 1 - 0.7**4 * (1 - 0.15))}[name]
    augmentation = only(module, kind)
    count = 3000
    before = images(1, size=8).expand(count, -1, -1, -1)
    after = augmentation.apply(before, numbers(augmentation, count), torch.tensor(0.3, dtype=torch.float64))
    share = ((after - before).abs().amax((1, 2, 3)) > 1e-9).double().mean().item()
    assert share == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / count))


def test_color_has_the_ranges_of_the_paper():
    """2006.10738, section 3.3: brightness within 0.5, contrast within [0.5, 1.5], saturation within [0, 2]."""
    augmentation, count = only(diffaugment, "color"), 2000
    before = images(1, size=8).expand(count, -1, -1, -1)
    after = augmentation.apply(before, numbers(augmentation, count), ALWAYS)
    moved = after.mean((1, 2, 3)) - before.mean((1, 2, 3))
    assert (moved.min().item(), moved.max().item()) == (pytest.approx(-0.5, abs=0.01), pytest.approx(0.5, abs=0.01))
    grey = before.mean(1, keepdim=True)
    spread = (after.mean(1) - after.mean((1, 2, 3))[:, None, None]).std((1, 2)) / grey[:, 0].std((1, 2))
    assert (spread.min().item(), spread.max().item()) == (pytest.approx(0.5, abs=0.01), pytest.approx(1.5, abs=0.01))
    colors = (after - after.mean(1, keepdim=True)).std((1, 2, 3)) / (before - grey).std((1, 2, 3)) / spread
    assert (colors.min().item(), colors.max().item()) == (pytest.approx(0.0, abs=0.01), pytest.approx(2.0, abs=0.02))


def test_translation_moves_by_up_to_an_eighth_and_leaves_grey():
    augmentation, count = only(diffaugment, "translation"), 500
    before = torch.ones(count, 1, 16, 16, dtype=torch.float64)
    after = augmentation.apply(before, numbers(augmentation, count), ALWAYS)[:, 0]
    tops = [next(row for row in range(16) if image[row].any()) for image in after]
    bottoms = [next(row for row in range(16) if image[15 - row].any()) for image in after]
    assert (max(tops), max(bottoms)) == (2, 2)
    assert {top - bottom for top, bottom in zip(tops, bottoms, strict=True)} == {-2, -1, 0, 1, 2}
    assert after[after != 1.0].unique().tolist() == [0.0]


def test_cutout_removes_a_square_of_half_the_size():
    augmentation, count = only(diffaugment, "cutout"), 5000
    after = augmentation.apply(torch.ones(count, 1, 16, 16, dtype=torch.float64), numbers(augmentation, count), ALWAYS)
    missing = (after == 0.0).sum((1, 2, 3))
    assert missing.max() == 64
    assert missing.min() == 16  # a corner of it: the centre is always inside
    heights = (after == 0.0).any(3).sum(2).flatten()
    assert heights.max() == 8


def test_the_symlet_is_orthogonal_so_that_up_and_down_sampling_is_the_identity():
    tap = torch.tensor(ada.SYM6, dtype=torch.float64)
    products = [float((tap[2 * shift :] * tap[: 12 - 2 * shift]).sum()) for shift in range(6)]
    assert products == pytest.approx([1.0, 0, 0, 0, 0, 0], abs=1e-11)
    assert float(tap.sum()) == pytest.approx(math.sqrt(2), abs=1e-11)


ONE, NO = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("right", "down", "expected"),
    [(0.125, 0.0, lambda picture: picture.roll(4, 3)), (0.0, -0.25, lambda picture: picture.roll(-8, 2))],
)
def test_shifts_by_whole_pixels_keep_pixels_as_they_are(right, down, expected):
    before, inside = images(1, size=32), slice(10, 18)
    found = ada.warped(before, ada._translation(ONE * right, ONE * down))[:, :, inside, inside]
    torch.testing.assert_close(found, expected(before)[:, :, inside, inside], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("inverse", "expected"),
    [
        (ada._scaling(-ONE, ONE), lambda picture: picture.flip(3)),
        (ada._rotation(ONE * math.pi / 2), lambda picture: picture.rot90(1, (2, 3))),
        (ada._rotation(ONE * math.pi), lambda picture: picture.rot90(2, (2, 3))),
    ],
)
def test_turns_and_mirroring_go_the_right_way_about_the_centre(inverse, expected):
    """Of real digits, nearly to the pixel: the symlet is not quite symmetric. Half a pixel beside the centre the error would be 0.6."""
    digits_ = (digits.load().images[:50].double() / 127.5 - 1.0) + 1.0
    padded = torch.nn.functional.pad(digits_, (4, 4, 4, 4))
    found = ada.warped(padded, inverse.expand(50, -1, -1))
    error = (found - expected(padded)).square().mean().sqrt() / padded.std()
    assert error < 0.25
    assert (padded - expected(padded)).square().mean().sqrt() / padded.std() > 0.5


def test_an_impulse_at_the_centre_stays_there():
    impulse = torch.zeros(1, 1, 33, 33, dtype=torch.float64)
    impulse[0, 0, 16, 16] = 1.0
    places = torch.arange(33, dtype=torch.float64)
    for inverse in (ada._scaling(-ONE, ONE), ada._rotation(ONE * 0.7), ada._scaling(ONE / 1.3, ONE / 1.3)):
        found = ada.warped(impulse, inverse)[0, 0]
        centre = [float((found.sum(axis) * places).sum() / found.sum()) for axis in (0, 1)]
        assert centre == pytest.approx([16.0, 16.0], abs=0.02)


def many(count, draws, seed=5):
    return Columns(torch.rand(count, draws, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


def test_geometry_has_the_sizes_of_the_paper():
    """2006.06676, appendix B: scale and aspect log-normal of deviation 0.2 log 2, rotations uniform, fractions normal of 0.125."""
    scale, before, aspect, after, move = ada._moves(many(20_000, ada.GEOMETRY_DRAWS), ALWAYS)
    logs = -scale[:, 0, 0].log()
    assert (logs.mean().item(), logs.std().item()) == (pytest.approx(0.0, abs=0.004), pytest.approx(0.2 * math.log(2), rel=0.02))
    torch.testing.assert_close(scale[:, 0, 0], scale[:, 1, 1])
    logs = -aspect[:, 0, 0].log()
    assert (logs.mean().item(), logs.std().item()) == (pytest.approx(0.0, abs=0.004), pytest.approx(0.2 * math.log(2), rel=0.02))
    torch.testing.assert_close(aspect[:, 0, 0] * aspect[:, 1, 1], torch.ones(20_000, dtype=torch.float64))
    for turn in (before, after):
        angles = torch.atan2(turn[:, 1, 0], turn[:, 0, 0])
        assert (angles.mean().item(), angles.std().item()) == (pytest.approx(0.0, abs=0.05), pytest.approx(math.pi / 3**0.5, rel=0.02))
    for axis in (0, 1):
        shifts = move[:, axis, 2]
        assert (shifts.mean().item(), shifts.std().item()) == (pytest.approx(0.0, abs=0.006), pytest.approx(0.25, rel=0.02))


def test_one_of_two_rotations_is_taken_as_often_as_asked():
    """Both with 1 - sqrt(1 - p), so that an image is turned with probability p."""
    chance = torch.tensor(0.36, dtype=torch.float64)
    _, before, _, after, _ = ada._moves(many(20_000, ada.GEOMETRY_DRAWS), chance)
    turned = [turn[:, 0, 0] != 1.0 for turn in (before, after)]
    assert turned[0].double().mean().item() == pytest.approx(0.2, abs=0.012)
    assert (turned[0] | turned[1]).double().mean().item() == pytest.approx(0.36, abs=0.014)


def test_blits_have_the_sizes_of_the_paper():
    mirror, turn, move = ada._blits(many(20_000, ada.PIXEL_DRAWS), ALWAYS, 32)
    assert (mirror[:, 0, 0] == -1.0).double().mean().item() == pytest.approx(0.5, abs=0.015)
    quarters = (torch.atan2(turn[:, 1, 0], turn[:, 0, 0]) / (math.pi / 2)).round().long() % 4
    assert (quarters.bincount(minlength=4) / 20_000).tolist() == pytest.approx([0.25] * 4, abs=0.013)
    pixels = (move[:, 0, 2] * 16).round().long()
    assert (pixels.min().item(), pixels.max().item()) == (-4, 4)
    torch.testing.assert_close(move[:, 0, 2] * 16, pixels.double())


def test_colors_have_the_sizes_of_the_paper():
    brightness, contrast, flip, hue, saturation = ada._recolorings(many(20_000, ada.COLOR_DRAWS), ALWAYS)
    assert brightness[:, 0, 3].std().item() == pytest.approx(0.2, rel=0.02)
    assert contrast[:, 0, 0].log().std().item() == pytest.approx(0.5 * math.log(2), rel=0.02)
    assert (flip[:, 0, 0] < 0.9).double().mean().item() == pytest.approx(0.5, abs=0.015)
    assert ((hue[:, 0, 0] * 3 - 1) / 2).acos().mean().item() == pytest.approx(math.pi / 2, rel=0.02)  # of |angle|
    shares = (saturation[:, 0, 0] * 3 - 1) / 2
    assert shares.log().std().item() == pytest.approx(math.log(2), rel=0.02)


def test_scale_and_rotation_sample_the_image_where_they_should():
    """Twice the size: the centre of a smooth image stretched, compared with its formula."""
    size = 64
    places = (torch.arange(size, dtype=torch.float64) + 0.5) * (2 / size) - 1
    across, down = places[None, :], places[:, None]
    picture = torch.cos(2 * across + 0.5) * torch.cos(3 * down)
    half = torch.tensor([0.5], dtype=torch.float64)
    found = ada.warped(picture[None, None], ada._scaling(half, half))[0, 0]
    stretched = torch.cos(across + 0.5) * torch.cos(1.5 * down)
    torch.testing.assert_close(found[8:-8, 8:-8], stretched[8:-8, 8:-8], rtol=0, atol=0.02)
    angle = torch.tensor([0.3], dtype=torch.float64)
    turned = ada.warped(picture[None, None], ada._rotation(angle))[0, 0]
    right, below = across * angle.cos() - down * angle.sin(), across * angle.sin() + down * angle.cos()
    expected = torch.cos(2 * right + 0.5) * torch.cos(3 * below)
    torch.testing.assert_close(turned[16:-16, 16:-16], expected[16:-16, 16:-16], rtol=0, atol=0.02)


def test_recoloring_keeps_what_each_transformation_keeps():
    """Hue and saturation keep the luma, a luma flip reverses it, and hue keeps the distance from grey."""
    columns = Columns(torch.rand(50, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))
    _, _, flip, hue, saturation = ada._recolorings(columns, ALWAYS)
    color = images(50, size=1)
    luma = color.mean(1)
    for matrix in (hue, saturation):
        torch.testing.assert_close(ada.recolored(color, matrix).mean(1), luma)
    away = lambda picture: (picture - picture.mean(1, keepdim=True)).norm(dim=1)  # noqa: E731
    torch.testing.assert_close(away(ada.recolored(color, hue)), away(color))
    flipped = ada.recolored(color, flip).mean(1) / luma
    assert sorted({round(value, 6) for value in flipped.flatten().tolist()}) == [-1.0, 1.0]
    torch.testing.assert_close(away(ada.recolored(color, flip)), away(color))


def test_one_channel_is_colored_as_three_equal_ones_are():
    augmentation = only(ada, "color")
    grey, table = images(channels=1), numbers(augmentation)
    one = augmentation.apply(grey, table, ALWAYS)
    three = augmentation.apply(grey.expand(-1, 3, -1, -1), table, ALWAYS)
    torch.testing.assert_close(one, three.mean(1, keepdim=True))


def test_normal_numbers_are_normal():
    grid = ((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)[:, None]
    found = Columns(grid).normal()
    assert (found.mean().item(), found.std().item()) == (pytest.approx(0.0, abs=1e-6), pytest.approx(1.0, abs=1e-4))
    assert Columns(torch.zeros(1, 1)).normal().isfinite().all()


@pytest.mark.parametrize(("module", "kinds"), [(diffaugment, ("color", "translation", "cutout")), (ada, ("pixel", "geometry", "color"))])
def test_an_augmentation_without_a_kind_is_refused(module, kinds):
    with pytest.raises(ValueError, match="are all false; set augment.name=null"):
        module.augmentation(**dict.fromkeys(kinds, False))


def test_r1_at_augmented_images_can_be_trained_on():
    discriminator = mlp.discriminator(resolution=8, channels=3, num_classes=0, hidden_width=8).double()
    augmentation = ada.augmentation()
    seen = augmentation.apply(images(size=8), numbers(augmentation), ALWAYS)
    r1(discriminator, seen, seen, None, Given()).mean().backward()
    assert discriminator.logit.weight.grad.abs().sum() > 0
