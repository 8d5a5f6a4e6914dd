"""How strongly gradients are held down: a ladder of factors around the usual first guess for R1's weight.

The guess is 2e-4 * resolution^2 / batch size (2006.06676, appendix C, whose ladder has the same shape). SCALED says so: values of these
keys are for one pixel and a batch of one, and `raygan sweep` multiplies them by resolution^2 / batch_size of the config.
"""

from ray import tune

HEURISTIC = 2e-4
LADDER = [HEURISTIC * factor for factor in (0.25, 0.5, 1.0, 2.0, 4.0)]

SPACE = {"regularizers.r1_gamma": tune.choice(LADDER), "regularizers.r2_gamma": tune.choice([0.0, *LADDER])}
SCALED = ("regularizers.r1_gamma", "regularizers.r2_gamma")
