"""The loss variants, each as its paper regularises it, against the D:G step ratio."""

from ray import tune

SPACE = {
    "variant": tune.choice(
        [
            "dcgan",
            "f_gan",
            "f_jeffreys",
            "f_jensen_shannon",
            "f_kl",
            "f_neyman",
            "f_pearson",
            "f_reverse_kl",
            "f_squared_hellinger",
            "f_total_variation",
            "lsgan",
            "r1",
            "r3gan",
            "sngan_hinge",
            "wgan",
            "wgan_gp",
        ]
    ),
    "step_ratio": tune.choice(["1:2", "1:1", "2:1", "3:1", "5:1", "8:1"]),
}
