"""Checkpoints that somebody else has quantized: turned into plain weights as they are read."""
