"""Submitting commands as Ray jobs: what travels, what is asked for, where it goes, how it is followed and found again in MLflow."""
