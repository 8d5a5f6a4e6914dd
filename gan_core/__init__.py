"""The GAN training loop in pure PyTorch: what is computed. Never imports ray or mlflow."""

from gan_core.trainer import DivergenceError, EvaluationError, Report, Trainer

__all__ = ["DivergenceError", "EvaluationError", "Report", "Trainer"]
