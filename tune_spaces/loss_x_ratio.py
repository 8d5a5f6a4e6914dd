"""The loss against the D:G step ratio, from 1:2 to 8:1: which game to play, and how much of it each player gets."""

from ray import tune

SPACE = {
    "loss.name": tune.choice(["minimax", "non_saturating"]),
    "step_ratio": tune.choice(["1:2", "1:1", "2:1", "3:1", "5:1", "8:1"]),
}
