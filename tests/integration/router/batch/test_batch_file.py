"""Sending and printing a file of prompts: order, failures, length, progress."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from common.messages import WorkRequest
from tests.integration.support.batch_command import CHAT, Bench, CommandLine, benching, call
from tests.integration.support.scripted_worker import BLOCK_SIZE, BLOCKS, ScriptedWorker, echo
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import write_folder

ROOM = BLOCKS * BLOCK_SIZE
LARGE_BLOCKS = 100  # memory for 1600 tokens


def in_reverse(number: int) -> Callable[[ScriptedWorker, WorkRequest], None]:
    """Return a script that waits for `number` requests and answers them, the last one first."""

    def speak(worker: ScriptedWorker, request: WorkRequest) -> None:
        if len(worker.requests) == number:
            by_prompt = sorted(worker.requests, key=lambda r: r.prompt_token_ids, reverse=True)
            for asked in by_prompt:
                echo(worker, asked)

    return speak


ABC = [{"prompt": text, "raw": True, "request_id": text} for text in "abc"]


def test_with_ordered_answers_come_in_the_files_order(bench: Bench) -> None:
    bench.worker._script = in_reverse(3)
    printed = bench.run(*ABC, flags=("--json", "--ordered"))
    assert [line["text"] for line in printed.lines] == ["a", "b", "c"]


def test_without_it_an_answer_is_printed_when_it_is_there(bench: Bench) -> None:
    """The first answer never ends before the second is printed, so nothing waits for the first."""

    def speak(worker: ScriptedWorker, request: WorkRequest) -> None:
        held = [r for r in worker.requests if r.prompt_token_ids == (ord("a"),)]
        if request not in held:
            echo(worker, request)
        if request.prompt_token_ids == (ord("c"),):
            echo(worker, held[0])

    bench.worker._script = speak
    printed = bench.run(*ABC, flags=("--json", "--concurrency", "2"))
    texts = [line["text"] for line in printed.lines]
    # c is sent when b has ended, in its place, and only then a goes on
    assert texts.index("b") < texts.index("a")
    assert sorted(texts) == ["a", "b", "c"]


def test_a_line_that_fails_stops_no_other_and_the_code_says_it(bench: Bench) -> None:
    bad = {"prompt": "x", "temperature": 101, "request_id": "bad"}
    refused = call(CHAT, temperature=101)
    printed = bench.run(ABC[0], bad, refused, ABC[1], flags=("--ordered", "--json"))
    first, second, third, last = printed.lines
    assert (printed.code, first["text"], last["text"]) == (1, "a", "b")
    assert (second["request_id"], second["line"]) == ("bad", 2)
    assert second["error"]["field"] == "sampling.temperature"
    assert (third["custom_id"], third["response"]["status_code"]) == ("a", 400)
    error = third["response"]["body"]["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", "sampling.temperature")
    assert error["code"] == "INVALID_FIELD"


def test_without_json_each_text_follows_its_line_and_name(bench: Bench) -> None:
    printed = bench.run(*ABC[:2], flags=("--ordered",))
    assert printed.out == "--- line 1 a\na\n--- line 2 b\nb\n"
    assert printed.err == ""


def test_an_answer_has_512_tokens_at_most_unless_somebody_says_otherwise(bench: Bench) -> None:
    """There is room for 256 tokens beside the prompt: a default must not cause a refusal."""
    bench.run({"prompt": "ab", "raw": True})
    assert bench.last().sampling.max_tokens == ROOM - 2
    printed = bench.run({"prompt": "ab", "raw": True, "max_tokens": 512})
    assert [line["error"]["reason"] for line in printed.lines] == ["CONTEXT_EXCEEDED"]
    bench.run_command("generate", "ab", "--raw", "--address", bench.stack.address)
    assert bench.last().sampling.max_tokens == ROOM - 2


def test_512_where_there_is_room(tmp_path: Path, command_line: CommandLine) -> None:
    model_dir = write_folder(tmp_path / "model")
    worker = ScriptedWorker(script=echo)
    worker.info = replace(worker.info, max_context_tokens=4096)
    worker.reported = replace(worker.reported, blocks_total=LARGE_BLOCKS, blocks_free=LARGE_BLOCKS)
    with benching(model_dir, worker, command_line) as bench:
        bench.run({"prompt": "a"})
        assert bench.last().sampling.max_tokens == 512
        bench.run(call(CHAT))
        assert bench.last().sampling.max_tokens == 512
        bench.run({"prompt": "a", "min_tokens": 600})
        assert bench.last().sampling.max_tokens == 600
        bench.run_command("generate", "a", "--address", bench.stack.address)
        assert bench.last().sampling.max_tokens == 512


def test_flags_that_are_not_given_leave_the_choice_to_the_model(bench: Bench) -> None:
    address = ("--address", bench.stack.address)
    bench.run_command("generate", "a", *address)
    silent = bench.last().sampling
    assert (silent.temperature, silent.top_k, silent.min_p) == (0.0, 0, 0.0)
    bench.run_command("generate", "a", "--top-k", "5", "--min-p", "0.5", *address)
    assert (bench.last().sampling.top_k, bench.last().sampling.min_p) == (5, 0.5)


def test_progress_is_shown_on_a_terminal_and_leaves_the_answers_alone(bench: Bench) -> None:
    """Answers go to stdout's target, also while a bar is drawn on stderr."""
    file = bench.folder / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, ABC)))
    ours, theirs = pty.openpty()
    code = "from cli.main import main; main()"
    args = ["generate", "--prompts-file", str(file), "--json", "--address", bench.stack.address]
    environment = os.environ | {"TERM": "xterm"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *args],
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=environment,
            timeout=WITHIN_S,
            check=True,
        )
        os.close(theirs)
        shown = _read_all(ours)
    finally:
        os.close(ours)
    texts = sorted(json.loads(line)["text"] for line in done.stdout.splitlines())
    assert texts == ["a", "b", "c"]
    assert b"3/3" in shown


def _read_all(terminal: int) -> bytes:
    found = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux's error when the other end is closed
            return found
        if not part:
            return found
        found += part
