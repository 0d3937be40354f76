"""Refuses grammars that cannot be compiled, without compiling any in this process.

1. `check` answers from memory if it has seen the grammar: clients repeat a few of them.
2. Otherwise the child process (common/grammar/child.py) is started, at the first grammar and after each one
   that killed it. That has a time of its own, which no grammar pays for, and goes on when its caller leaves.
3. With a child that is ready it waits for its turn: one grammar at a time, no threads, and so many waiting at
   most. A verdict, the child's death or MAX_WAIT_S ends that. The processor time that a grammar may take is
   the child's, and so is the verdict; what took too long by the clock says nothing of the grammar, and is not
   remembered: the clock is for a machine that gives the child no time at all.
4. A caller that leaves while the child is busy takes the child with it: its answer would be the next one's.
"""

import asyncio
import json
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path

from common.messages import Grammar
from pdserve.errors import InternalError, InvalidRequestError, OverloadedError

MAX_WAIT_S = 30.0  # half a second for each that is ahead, more on a machine that is busy
_MAX_WAITING = 256
_MAX_START_S = 120.0  # a second or two, on a machine that is not busy
_MAX_COMPILE_S = 10.0  # of wall clock, on a machine that is busy
_MAX_COMPILE_CPU_S = 0.5
_MAX_REMEMBERED = 256
_RETRY_AFTER_S = 1.0
_TOO_SLOW = f"it takes more than {_MAX_COMPILE_CPU_S} s to compile"
_TOO_MANY = "too many grammars wait to be compiled"
_DEATHS = {-signal.SIGPROF: _TOO_SLOW, -signal.SIGSEGV: "it is nested too deeply"}
_ANY_OTHER_DEATH = "it is too large to compile"


class GrammarChecker:
    """Owns the child process and what it said of earlier grammars. All methods on one event loop."""

    def __init__(self, model_dir: Path, eos_token_ids: Collection[int], vocab_size: int) -> None:
        eos = ",".join(map(str, eos_token_ids))
        self._arguments = (str(model_dir), eos, str(vocab_size), str(_MAX_COMPILE_CPU_S))
        self._verdicts: OrderedDict[Grammar, str | None] = OrderedDict()
        self._turn = asyncio.Lock()
        self._num_waiting = 0
        self._child: Process | None = None
        self._starting: asyncio.Task[Process] | None = None

    async def check(self, grammar: Grammar) -> None:
        """Return if it compiles.

        Raises InvalidRequestError, or OverloadedError when nobody could tell in time: too many wait, or the
        machine is too busy.
        """
        verdict = await self._find_verdict(grammar)
        if verdict is not None:
            raise InvalidRequestError(verdict, field=f"sampling.structured_output.{grammar.kind}")

    async def close(self) -> None:
        """End the child."""
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
        """Have a verdict on it remembered."""
        await self._ready()
        try:
            async with asyncio.timeout(MAX_WAIT_S), self._turn:
                if grammar not in self._verdicts:  # nobody has asked the same meanwhile
                    self._remember(grammar, await self._ask(grammar))
        except TimeoutError:
            raise _overloaded(_TOO_MANY) from None

    def _remember(self, grammar: Grammar, verdict: str | None) -> None:
        self._verdicts[grammar] = verdict
        if len(self._verdicts) > _MAX_REMEMBERED:
            self._verdicts.popitem(last=False)

    async def _ask(self, grammar: Grammar) -> str | None:
        """The child's verdict: None, or why it is refused."""
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
        """The child, started if there is none. Raises InternalError, OverloadedError."""
        if self._child is not None and self._child.returncode is None:
            return self._child
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._start_child())
            self._starting.add_done_callback(_retrieve)  # its callers may have left
        return await asyncio.shield(self._starting)

    async def _start_child(self) -> Process:
        """A child that is ready. Raises InternalError when the model's tokenizer does not allow one."""
        command = (sys.executable, "-P", "-m", "common.grammar.child", *self._arguments)
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
    await child.wait()


def _overloaded(message: str) -> OverloadedError:
    return OverloadedError(message, retry_after_s=_RETRY_AFTER_S)


def _write_line(child: Process, line: str) -> None:
    if child.stdin is not None:  # it is a pipe; the type does not know
        child.stdin.write(line.encode() + b"\n")


async def _read_line(child: Process) -> bytes | None:
    """The next line, None when the child has ended."""
    line = await child.stdout.readline() if child.stdout is not None else b""
    return line or None
