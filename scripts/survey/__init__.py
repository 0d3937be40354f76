"""Survey of `transformers`: every model type that writes text, tiny, by its own modules and by our engine."""
