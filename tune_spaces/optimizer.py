"""Adam of each player by itself: two time scales (TTUR, 1706.08500), and how much momentum either bears."""

from ray import tune

SPACE = {
    f"optimizer.{player}.{key}": domain
    for player in ("generator", "discriminator")
    for key, domain in (
        ("lr", tune.loguniform(5e-5, 5e-3)),
        ("beta1", tune.choice([0.0, 0.5, 0.9])),
        ("beta2", tune.choice([0.9, 0.99, 0.999])),
    )
}
