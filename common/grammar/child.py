"""Process that tries grammars out (`python -m common.grammar.child`), so that none harms its parent.

1. The parent starts it with the model's folder, end-of-sequence tokens, vocabulary size and a time limit.
2. It says "ready" once the tokenizer is built.
3. A line of JSON comes in, [kind, strict_formats, text, ...]; one goes out: null, or why this grammar is
   refused.
4. A grammar that takes more processor time than the limit ends the process (SIGPROF), even in native code.
   One that nests too deeply overflows the stack (SIGSEGV); one that wants too much memory aborts. The parent
   sees which, refuses the grammar and starts a new process for the next one.
5. It ends with its standard input, so it never outlives the parent by more than one grammar.

The stack is an eighth of what a worker's threads have, so that what passes here cannot overflow there.
"""

import json
import resource
import signal
import sys
import threading
from pathlib import Path

from common.grammar.compiler import GrammarCompiler, GrammarError, try_out
from common.messages import Grammar, GrammarKind

_STACK_BYTES = 1 << 20
_MEMORY_BYTES = 2 << 30


def main(model_dir: str, eos_token_ids: str, vocab_size: str, max_cpu_s: str) -> None:
    """Answer until standard input ends. Raises GrammarError when the tokenizer cannot be read."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    eos = [int(token_id) for token_id in eos_token_ids.split(",") if token_id]
    compiler = GrammarCompiler(Path(model_dir), eos, int(vocab_size))
    threading.stack_size(_STACK_BYTES)
    worker = threading.Thread(target=_answer_all, args=(compiler, float(max_cpu_s)))
    _say("ready")
    worker.start()
    worker.join()


def _answer_all(compiler: GrammarCompiler, max_cpu_s: float) -> None:
    for line in sys.stdin:
        kind, strict_formats, *texts = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, max_cpu_s)
        verdict = _try(compiler, Grammar(GrammarKind(kind), tuple(texts), strict_formats))
        signal.setitimer(signal.ITIMER_PROF, 0)
        _say(verdict)


def _try(compiler: GrammarCompiler, grammar: Grammar) -> str | None:
    try:
        try_out(compiler.compile(grammar))
    except GrammarError as error:
        return str(error)
    return None


def _say(message: str | None) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
