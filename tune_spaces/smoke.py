"""Two losses by two ratios: to see in a minute that a sweep works here."""

from ray import tune

SPACE = {"loss.name": tune.choice(["hinge", "non_saturating"]), "step_ratio": tune.choice(["1:1", "2:1"])}
