"""The bare loss against the D:G step ratio, from 1:2 to 8:1: which game to play, and how much of it each player gets."""

from ray import tune

from tune_spaces._names import F_GANS, STEP_RATIOS

OTHERS = ["hinge", "least_squares", "minimax", "mmd", "non_saturating", "relativistic", "relativistic_average", "wasserstein"]

SPACE = {"loss.name": tune.choice([*F_GANS, *OTHERS]), "step_ratio": tune.choice(STEP_RATIOS)}
