"""Trials of our kernels against torch before their first use. verdicts.py decides."""
