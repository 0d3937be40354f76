"""Weights: names to folders (download, convert, cache), and folders to models (check, load)."""
