"""What several spaces choose from."""

STEP_RATIOS = ["1:2", "1:1", "2:1", "3:1", "5:1", "8:1"]
F_GANS = [
    "f_gan",
    "f_jeffreys",
    "f_jensen_shannon",
    "f_kl",
    "f_neyman",
    "f_pearson",
    "f_reverse_kl",
    "f_squared_hellinger",
    "f_total_variation",
]
