"""Sweeps: what `raygan sweep` plans, runs as Ray Tune trials, and finds; MLflow is the ledger of all of it."""
