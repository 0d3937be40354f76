"""Numbers of a model that the rest of the engine needs."""

from dataclasses import dataclass, replace

from common.engine.state.layout import StateLayout
from common.kv_transfer.layout import KVShape, count_numbers
from common.kv_transfer.quantized import in_words


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Shape and limits of one loaded model."""

    num_layers: int
    num_heads: int  # of a layer's queries; 0 where their number varies, or no layer attends
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_context_tokens: int
    eos_token_ids: frozenset[int]
    dtype: str
    fingerprint: str
    extras: tuple[str, ...] = ()  # of its attention, in words; see AttentionForm.extras
    dtype_reason: str = ""  # why the dtype was chosen
    state_layers: tuple[int, ...] = ()  # numbers of the layers that hold state
    state: StateLayout | None = None  # of one sequence; known once the model has run
    quantization: str = "none"  # of the weights of products
    kv_quantization: str = "none"  # of keys and values, in blocks and payloads
    has_key_biases: bool = (
        False  # some channels of keys are biases by position, which must stay exact
    )
    # where keys differ from values, or layer from layer: those of each layer that has some of its own
    own_kv_shapes: tuple[KVShape, ...] = ()
    # where layers share keys and values, or have none: by layer, the place in `kv_shapes` of those that it
    # reads, or the number of places
    kv_places: tuple[int, ...] = ()

    @property
    def stored_as(self) -> str:
        """Return DTYPE, or DTYPE/WEIGHTS with quantized weights; behind it "+kv-int8" with such KV."""
        weights = "" if self.quantization == "none" else f"/{self.quantization}"
        kv = "" if self.kv_quantization == "none" else f"+kv-{self.kv_quantization}"
        return f"{self.dtype}{weights}{kv}"

    @property
    def kv_dtype(self) -> str:
        """Dtype of keys and values in blocks and payloads."""
        return self.dtype if self.kv_quantization == "none" else self.kv_quantization

    @property
    def kv_shapes(self) -> tuple[KVShape, ...]:
        """Shapes of all keys and values that are kept, layer by layer."""
        alike = KVShape(self.num_kv_heads, self.head_dim, self.head_dim)
        return self.own_kv_shapes or (alike,) * self.num_layers

    @property
    def stored_kv_shapes(self) -> tuple[KVShape, ...]:
        """Shapes of `kv_shapes` in blocks and payloads: words where they are quantized."""
        shapes = self.kv_shapes
        return shapes if self.kv_quantization == "none" else tuple(map(in_words, shapes))

    @property
    def kv_layers(self) -> tuple[int, ...]:
        """Number in the model of the layer that stores each of `kv_shapes`; none without attention."""
        places = range(len(self.kv_shapes))
        if not self.kv_places:
            return tuple(places)
        return tuple(self.kv_places.index(place) for place in places if place in self.kv_places)

    def quantized(self, quantization: str) -> "ModelSpec":
        """Return the numbers of this model with quantized weights: another model, to other workers."""
        if quantization == "none":
            return self
        fingerprint = f"{self.fingerprint}-{quantization}"
        return replace(self, quantization=quantization, fingerprint=fingerprint)

    def with_quantized_kv(self, quantization: str) -> "ModelSpec":
        """Return the numbers of this model with quantized KV, which is of no use to other workers."""
        fingerprint = f"{self.fingerprint}-kv-{quantization}"
        return replace(self, kv_quantization=quantization, fingerprint=fingerprint)

    def kv_bytes_per_token(self, bytes_per_element: int) -> int:
        """Return bytes of keys and values of one position in all layers.

        2 x layers x kv_heads x head_dim x bytes, where all layers, keys and values are alike. Of quantized
        ones an element is a word.
        """
        return count_numbers(self.stored_kv_shapes) * bytes_per_element
