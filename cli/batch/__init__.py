"""Batches of prompts from a file: reading the lines, sending them, writing the answers."""
