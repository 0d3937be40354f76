"""Grammars of one worker: compiled beside the engine, handed to sequences.

1. `prepare`: a sequence with a grammar waits here while the grammar is compiled, in the one thread that owns
   the compiler. Only other sequences with a grammar may have to wait behind it.
2. `collect` (before each step) hands over sequences with their matcher, or with the reason why there is
   none.
3. From then on the sequence owns its matcher (`seq.matcher`): the ModelRunner asks it for a mask before each
   token, `Sequence.append` tells it each token. It goes when the sequence goes; nothing is kept here.
"""

import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common.engine.model_spec import ModelSpec
from common.engine.sequence import Sequence
from common.grammar.compiler import GrammarCompiler, GrammarError
from common.messages import Grammar

Prepared = tuple[Sequence, GrammarError | None]
Compiler = GrammarCompiler | GrammarError  # an error says why the model has none


def load_compiler(model_dir: Path, spec: ModelSpec) -> Compiler:
    """Build a model's compiler; that takes a quarter of a second of a core."""
    try:
        return GrammarCompiler(model_dir, spec.eos_token_ids, spec.vocab_size)
    except GrammarError as error:
        return error


class Grammars:
    """Owner of the grammar compiler. Engine thread only, but for `_load` and `_compile`."""

    def __init__(
        self,
        model_dir: Path,
        spec: ModelSpec,
        wake: Callable[[], None],
        compiler: Compiler | None = None,
    ) -> None:
        """Start the compiler's thread, which builds the compiler unless there is one.

        `wake` is called from it when there is something to collect.
        """
        self._model_dir = model_dir
        self._spec = spec
        self._wake = wake
        self._prepared: queue.SimpleQueue[Prepared] = queue.SimpleQueue()
        self._compiler = compiler
        self._thread = ThreadPoolExecutor(1, "grammar-compile")
        if compiler is None:  # at load rather than at the first grammar, which would wait for it
            self._thread.submit(self._load)

    def prepare(self, seq: Sequence, grammar: Grammar) -> None:
        """Have the sequence's matcher made; `collect` returns it later."""
        self._thread.submit(self._compile, seq, grammar)

    def collect(self) -> list[Prepared]:
        """Return sequences that are ready to run, or can never be. Some may have ended meanwhile."""
        found = []
        while not self._prepared.empty():
            found.append(self._prepared.get())
        return found

    def close(self) -> None:
        """Compile nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _load(self) -> None:
        self._compiler = load_compiler(self._model_dir, self._spec)

    def _compile(self, seq: Sequence, grammar: Grammar) -> None:
        error = None
        try:
            if not isinstance(self._compiler, GrammarCompiler):
                raise self._compiler or GrammarError("there is no compiler")
            matcher = self._compiler.compile(grammar)
            for token_id in seq.token_ids[seq.num_prompt_tokens :]:
                matcher.accept(token_id)
            seq.matcher = matcher
        except GrammarError as caught:
            error = caught
        except BaseException as caught:  # a thread's edge; native code's panics are not Exceptions
            error = GrammarError(f"unexpected {type(caught).__name__}")
        self._prepared.put((seq, error))
        self._wake()
