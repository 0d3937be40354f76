"""Fused forward pass for the model families that we know, and the pass that builds it."""
