"""Scale of a run: the model's shape, and the sizes that are measured."""

from dataclasses import dataclass

from benchmarks.workload import Work, random_works

_SEED = 7


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama: pre-norm layers of grouped-query attention and a gated MLP; untied embeddings."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.hidden // self.heads

    @property
    def products(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of a layer's four products: QKV, output, gate and up, down."""
        attended = self.heads * self.head_dim
        qkv = (self.heads + 2 * self.kv_heads) * self.head_dim
        return (
            (self.hidden, qkv),
            (attended, self.hidden),
            (self.hidden, 2 * self.intermediate),
            (self.intermediate, self.hidden),
        )


@dataclass(frozen=True, slots=True)
class RequestList:
    """Requests that all arrive at the start; inclusive ranges of tokens."""

    count: int
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    rounds: int
    peer_blocks: int | None = None  # None: `transformers` takes the free memory, its default

    def works(self) -> list[Work]:
        """Return the same list for every system and round."""
        return random_works(self.count, _SEED, self.inputs, self.outputs)

    def warm_up(self) -> list[Work]:
        """Return other prompts, so that the prefix cache learns nothing of the measured ones."""
        return random_works(min(8, self.count), _SEED + 1, self.inputs, (2, 4))

    @property
    def most_tokens(self) -> int:
        """The most tokens of one request, prompt and output together."""
        return self.inputs[1] + self.outputs[1]


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes of one run."""

    shape: Shape
    batch_sizes: tuple[int, ...]
    context: int  # tokens that each decoding sequence sees, with the new one
    chunks: tuple[int, ...]  # lengths of prompts that run in one step
    requests: RequestList
    stream_bytes: int  # of the buffer for the bandwidth test, many times any cache
    matmul_rows: int
    square: int
    repeats: int


FULL = Scale(
    Shape(4096, 32, 32, 8, 14336, 128_256),
    (1, 8, 32, 64, 128),
    2048,
    (512, 2048, 8192),
    RequestList(96, (512, 2048), (64, 256), 2),
    4 * 2**30,
    8192,
    8192,
    20,
)
# all parts in seconds on a CPU, to try the command; the figures mean nothing
TINY = Scale(
    Shape(64, 2, 4, 2, 128, 50_000),
    (1, 2, 64),
    64,
    (16, 32),
    RequestList(6, (8, 24), (4, 8), 2, peer_blocks=8),
    2**20,
    64,
    64,
    3,
)
