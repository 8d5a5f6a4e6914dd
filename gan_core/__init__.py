"""The GAN training loop in pure PyTorch: what is computed. Never imports ray or mlflow."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gan_core.trainer import DivergenceError, EvaluationError, OutOfMemoryError, Report, Trainer

__all__ = ["DivergenceError", "EvaluationError", "OutOfMemoryError", "Report", "Trainer"]


def __getattr__(name: str) -> Any:
    """The names above, imported when they are asked for: who prepares images needs no PyTorch, which takes more than a second."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gan_core import trainer

    return getattr(trainer, name)
