"""Attention backends over paged KV, one a file behind AttentionBackend, and the hook into `transformers`."""
