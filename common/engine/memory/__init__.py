"""KV memory: block pool, prefix cache, KV cache, swap, and the queue of those that wait for it."""
