"""How often a class-conditional generator draws the class that was asked for, by a classifier's verdict."""

from jaxtyping import Int64
from torch import Tensor


def evaluate(classes: Int64[Tensor, " fake"], labels: Int64[Tensor, " labels"], *, extractor: str) -> dict[str, float]:
    """`class_agreement_<extractor>`: the share of fakes whose predicted class is the label they were made with, 0 to 1, and its error.

    Of real images it is the classifier's own accuracy, which bounds what can be seen: a fake of the right class may be misread. The
    standard error is that of a share, sqrt(p (1 - p) / fakes).

    Raises:
        ValueError: no fakes, or not one label for each.
    """
    if not len(classes) or classes.shape != labels.shape:
        raise ValueError(f"class_agreement: {len(classes)} fakes and {len(labels)} labels; give one for each, and at least one")
    share = float((classes == labels.to(classes.device)).double().mean())
    return {f"class_agreement_{extractor}": share, f"class_agreement_{extractor}_error": (share * (1.0 - share) / len(classes)) ** 0.5}
