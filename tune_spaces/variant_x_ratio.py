"""The loss variants, each as its paper regularises it, against the D:G step ratio."""

from ray import tune

from tune_spaces._names import F_GANS, STEP_RATIOS

OTHERS = ["dcgan", "lsgan", "r1", "r3gan", "sngan_hinge", "wgan", "wgan_gp"]

SPACE = {"variant": tune.choice([*F_GANS, *OTHERS]), "step_ratio": tune.choice(STEP_RATIOS)}
