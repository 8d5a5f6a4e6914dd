"""How classes enter a discriminator: the inner product of its features with the class's vector (1802.05637, eq. 3)."""

from jaxtyping import Float, Int64
from torch import Tensor, nn


def class_vectors(num_classes: int, width: int) -> nn.Embedding | None:
    """A vector for each class, None without classes. They start at zero: without influence, whatever the size of the features."""
    if not num_classes:
        return None
    vectors = nn.Embedding(num_classes, width)
    nn.init.zeros_(vectors.weight)
    return vectors


def projected(
    logits: Float[Tensor, " batch"],
    features: Float[Tensor, "batch width"],
    vectors: nn.Module | None,
    labels: Int64[Tensor, " batch"] | None,
) -> Float[Tensor, " batch"]:
    """`logits` with the classes' part, where there are classes."""
    return logits if vectors is None else logits + (features * vectors(labels)).sum(1)
