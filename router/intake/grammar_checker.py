"""Refuses grammars that cannot be compiled, without compiling any in this process.

1. `check` answers from memory if it has seen the grammar: clients repeat a few of them.
2. Otherwise the child process (common/grammar/child.py) is started, at the first grammar and after
   each one that killed it. The start has a time limit of its own, and goes on when its caller
   leaves.
3. With a ready child the grammar waits for its turn: one at a time, and at most _MAX_WAITING wait.
   A verdict, the child's death or MAX_WAIT_S ends the wait. The child limits the processor time of
   a grammar.
4. The limit by the clock is for a machine that gives the child no time. It says nothing of the
   grammar, so it is not remembered.
5. A caller that leaves while the child is busy ends the child, whose answer would go to the next
   grammar.
"""

import asyncio
import contextlib
import json
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path

from common import grammar as grammars
from common.messages import Grammar
from pdserve.errors import InternalError, InvalidRequestError, OverloadedError

MAX_WAIT_S = 30.0  # half a second for each grammar ahead, more on a busy machine
_MAX_WAITING = 256
_MAX_START_S = 120.0  # it takes a second or two on an idle machine
_MAX_COMPILE_S = 10.0  # by the clock, on a busy machine
_MAX_COMPILE_CPU_S = 0.5
_MAX_REMEMBERED = 256
_ENDED_WITHIN_S = 5.0
_RETRY_AFTER_S = 1.0
_TOO_SLOW = f"it takes more than {_MAX_COMPILE_CPU_S} s to compile"
_TOO_MANY = "too many grammars wait to be compiled"
_DEATHS = {-signal.SIGPROF: _TOO_SLOW, -signal.SIGSEGV: "it is nested too deeply"}
_ANY_OTHER_DEATH = "it is too large to compile"


class GrammarChecker:
    """The child process and its verdicts on earlier grammars. Call all methods on one event loop."""

    def __init__(self, model_dir: Path, eos_token_ids: Collection[int], vocab_size: int) -> None:
        eos = ",".join(map(str, eos_token_ids))
        self._arguments = (str(model_dir), eos, str(vocab_size), str(_MAX_COMPILE_CPU_S))
        self._verdicts: OrderedDict[Grammar, str | None] = OrderedDict()
        self._turn = asyncio.Lock()
        self._num_waiting = 0
        self._child: Process | None = None
        self._starting: asyncio.Task[Process] | None = None

    async def check(self, grammar: Grammar) -> None:
        """Return if the grammar compiles.

        Raises InvalidRequestError if it does not. Raises OverloadedError when there is no verdict
        in time: too many grammars wait, or the machine is too busy.
        """
        verdict = await self._find_verdict(grammar)
        if verdict is not None:
            raise InvalidRequestError(verdict, field=f"sampling.structured_output.{grammar.kind}")

    async def close(self) -> None:
        """End the child process."""
        async with self._turn:
            if self._starting is not None:
                self._starting.cancel()
                await asyncio.wait([self._starting])
            await self._end_child()

    async def _find_verdict(self, grammar: Grammar) -> str | None:
        if grammar not in self._verdicts:
            if self._num_waiting >= _MAX_WAITING:
                raise _overloaded(_TOO_MANY)
            self._num_waiting += 1
            try:
                await self._find_out(grammar)
            finally:
                self._num_waiting -= 1
        self._verdicts.move_to_end(grammar)
        return self._verdicts[grammar]

    async def _find_out(self, grammar: Grammar) -> None:
        """Ask the child for a verdict on a grammar, and remember it."""
        await self._ready()
        try:
            async with asyncio.timeout(MAX_WAIT_S), self._turn:
                if grammar not in self._verdicts:  # no other caller has asked the same meanwhile
                    self._remember(grammar, await self._ask(grammar))
        except TimeoutError:
            raise _overloaded(_TOO_MANY) from None

    def _remember(self, grammar: Grammar, verdict: str | None) -> None:
        self._verdicts[grammar] = verdict
        if len(self._verdicts) > _MAX_REMEMBERED:
            self._verdicts.popitem(last=False)

    async def _ask(self, grammar: Grammar) -> str | None:
        """Return the child's verdict: None, or the reason for a refusal."""
        child, answer = await self._ready(), None
        try:
            _write_line(child, json.dumps([grammar.kind, grammar.strict_formats, *grammar.texts]))
            try:
                async with asyncio.timeout(_MAX_COMPILE_S):
                    answer = await _read_line(child)
                    if answer is None:
                        return _DEATHS.get(await child.wait(), _ANY_OTHER_DEATH)
            except TimeoutError:
                raise _overloaded("the machine is too busy to compile a grammar") from None
            verdict: str | None = json.loads(answer)
            return verdict
        finally:
            if answer is None:
                await self._end_child()

    async def _ready(self) -> Process:
        """Return the child, started if there is none. Raises InternalError, OverloadedError."""
        if self._child is not None and self._child.returncode is None:
            return self._child
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._start_child())
            self._starting.add_done_callback(_retrieve)  # its callers may have left
        return await asyncio.shield(self._starting)

    async def _start_child(self) -> Process:
        """Return a ready child. Raises InternalError when the model's tokenizer allows none."""
        command = (sys.executable, "-P", "-m", f"{grammars.__name__}.child", *self._arguments)
        child = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL
        )
        try:
            async with asyncio.timeout(_MAX_START_S):
                if await _read_line(child) is None:
                    raise InternalError("this model's tokenizer.json is not fit for grammars")
            self._child = child
        except TimeoutError:
            raise _overloaded("the machine is too busy to start a grammar compiler") from None
        finally:
            if self._child is not child:
                await _end(child)
        return child

    async def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            await _end(child)


def _retrieve(task: "asyncio.Task[Process]") -> None:
    if not task.cancelled():
        task.exception()


async def _end(child: Process) -> None:
    if child.returncode is None:
        child.kill()
    with contextlib.suppress(TimeoutError):  # the system is slow to end it; nobody waits for that
        async with asyncio.timeout(_ENDED_WITHIN_S):
            await child.wait()


def _overloaded(message: str) -> OverloadedError:
    return OverloadedError(message, retry_after_s=_RETRY_AFTER_S)


def _write_line(child: Process, line: str) -> None:
    if child.stdin is not None:  # always: it is a pipe
        child.stdin.write(line.encode() + b"\n")


async def _read_line(child: Process) -> bytes | None:
    """Return the next line, None when the child has ended."""
    line = await child.stdout.readline() if child.stdout is not None else b""
    return line or None
