"""Sampling of tokens from logits, with grammars and log-probabilities."""
