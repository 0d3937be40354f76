"""Costs of a worker: measured at start-up, kept on disk, corrected while it runs."""
