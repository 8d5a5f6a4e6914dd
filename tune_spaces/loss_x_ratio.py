"""The bare loss against the D:G step ratio, from 1:2 to 8:1: which game to play, and how much of it each player gets."""

from ray import tune

SPACE = {
    "loss.name": tune.choice(
        [
            "f_gan",
            "f_jeffreys",
            "f_jensen_shannon",
            "f_kl",
            "f_neyman",
            "f_pearson",
            "f_reverse_kl",
            "f_squared_hellinger",
            "f_total_variation",
            "hinge",
            "least_squares",
            "minimax",
            "mmd",
            "non_saturating",
            "relativistic",
            "relativistic_average",
            "wasserstein",
        ]
    ),
    "step_ratio": tune.choice(["1:2", "1:1", "2:1", "3:1", "5:1", "8:1"]),
}
