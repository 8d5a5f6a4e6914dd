"""Where and when training runs: the command line, Ray and MLflow around gan_core."""

import os

# Ray reads these when it is imported. The controller's poll bounds how long a checkpoint waits (2 s by default); a thread that still calls
# Ray after the driver has left a cluster must not start another one.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
# PyTorch reads this when it first takes memory; pages.py has the reason.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
