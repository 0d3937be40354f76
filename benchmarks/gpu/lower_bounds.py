"""Lower bounds of a step's work: bytes that it must read, operations that it must do.

Norms (under 0.1 % of the bytes), the embedding's rows, activations and writes are left out. So a
fraction of a limit errs against us.
"""

from benchmarks.gpu.scale import Shape

_BYTES = 2  # of a number in bfloat16


def layer_parameters(shape: Shape) -> int:
    """Return the parameters of all layers' matrix products."""
    return shape.layers * sum(inputs * outputs for inputs, outputs in shape.products)


def head_parameters(shape: Shape) -> int:
    """Return the parameters of the product that gives logits."""
    return shape.hidden * shape.vocab


def weight_bytes(shape: Shape) -> int:
    """Return the bytes of weights that every step reads, however few tokens it runs."""
    return _BYTES * (layer_parameters(shape) + head_parameters(shape))


def kv_bytes(shape: Shape, tokens: int) -> int:
    """Return the bytes of keys and values of `tokens` positions."""
    return 2 * _BYTES * shape.layers * shape.kv_heads * shape.head_dim * tokens


def decode_bytes(shape: Shape, batch_size: int, context: int) -> int:
    """Return the bytes read by a step with `batch_size` sequences of `context` positions."""
    return weight_bytes(shape) + kv_bytes(shape, batch_size * context)


def prefill_flops(shape: Shape, tokens: int) -> int:
    """Return the operations of a step that runs a whole prompt and gives one row of logits.

    Each parameter costs two for each token. In attention each channel costs four for each pair of
    positions of which the later one sees the earlier one.
    """
    products = 2 * layer_parameters(shape) * tokens + 2 * head_parameters(shape)
    pairs = tokens * (tokens + 1) // 2
    return products + 4 * shape.layers * shape.heads * shape.head_dim * pairs
