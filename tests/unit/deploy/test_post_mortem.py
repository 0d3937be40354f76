import json

import pytest

from deploy.post_mortem import diagnose, diagnose_without_log, num_oom_kills, remedy_for

RAYS_HANDLER = ["*** SIGABRT received at time=1 on cpu 1 ***", "PC: @ 0x7f (unknown)"]
FAULTHANDLER = ["Fatal Python error: Aborted", "", "Stack (most recent call first):"]
CONNECTION_ERROR = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit "
    "detail: Worker unexpectedly exits with a connection error code 2. End of file. Some common causes "
    "include: (1) the process was killed by the OOM killer due to high memory usage"
)


def test_an_abort_is_told_with_the_line_before_it() -> None:
    lines = [
        ":job_id:01",
        "loaded",
        "LLVM ERROR: Cannot select: bf16",
        *RAYS_HANDLER,
        *FAULTHANDLER,
    ]
    death = diagnose(lines, CONNECTION_ERROR)
    assert death.cause == "SIGABRT"
    assert death.last_words == "LLVM ERROR: Cannot select: bf16"
    assert "--dtype" in death.remedy
    told = death.told_of("worker decode-0", "compiling kernels")
    assert told == (
        "worker decode-0 died (SIGABRT) while compiling kernels: LLVM ERROR: Cannot select: bf16"
    )


def test_a_line_whose_meaning_is_known_goes_before_the_last() -> None:
    lines = ["terminate called after throwing 'std::bad_alloc'", "  what(): no", *RAYS_HANDLER]
    assert "memory" in diagnose(lines).remedy
    assert diagnose(["first", "last", *RAYS_HANDLER]).last_words == "last"


@pytest.mark.parametrize(
    ("line", "signal"),
    [
        ("Fatal Python error: Segmentation fault", "SIGSEGV"),
        ("Fatal Python error: Illegal instruction", "SIGILL"),
        ("Fatal Python error: Bus error", "SIGBUS"),
        ("*** SIGFPE received at time=1 on cpu 0 ***", "SIGFPE"),
    ],
)
def test_a_signal_is_known_by_what_its_handler_wrote(line: str, signal: str) -> None:
    assert diagnose(["fine so far", line]).cause == signal


def test_the_remedy_of_an_illegal_instruction_is_about_the_cpu() -> None:
    assert "CPU" in diagnose(["Fatal Python error: Illegal instruction"]).remedy


def test_silence_is_sigkill_and_memory_where_the_kernel_says_so() -> None:
    lines = [json.dumps({"event": "worker_ready", "level": "info"})]
    death = diagnose(lines, CONNECTION_ERROR)
    assert (death.cause, death.last_words) == ("SIGKILL", "")
    assert "most often" in death.remedy
    sure = diagnose(lines, CONNECTION_ERROR, has_run_out=True)
    assert sure.cause == "SIGKILL, the kernel was out of memory"
    assert "most often" not in sure.remedy
    assert "engine.kv_cache_gib" in sure.remedy


def test_a_crash_of_the_engine_is_our_own_exit() -> None:
    crash = {"error": "RuntimeError('NaN')", "event": "engine_crashed", "level": "error"}
    death = diagnose([json.dumps(crash)], CONNECTION_ERROR)
    assert (death.cause, death.last_words) == ("exit code 1", "engine_crashed: RuntimeError('NaN')")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("The actor died because its node has died. Node Id: 1", "its node died"),
        ("Worker exit type: NODE_OUT_OF_MEMORY", "its node ran low on memory"),
        ("The actor is dead because it was killed by `ray.kill`.", "ended through Ray"),
    ],
)
def test_what_ray_knows_for_certain_goes_before_a_guess(text: str, cause: str) -> None:
    assert cause in diagnose(["all well"], text).cause
    assert diagnose(RAYS_HANDLER, text).cause == "SIGABRT"


def test_without_a_log_only_ray_can_know() -> None:
    assert "nobody knows" in diagnose_without_log(CONNECTION_ERROR).cause
    assert (
        diagnose_without_log("The actor died because its node has died.").cause == "its node died"
    )


def test_long_last_words_are_cut() -> None:
    words = diagnose(["x" * 5000]).last_words
    assert len(words) < 400
    assert words.endswith("…")


def test_what_nobody_knows_has_no_remedy() -> None:
    assert remedy_for("something else") == ""
    assert "install" in remedy_for("ModuleNotFoundError: No module named 'deploy'")


def test_the_kernels_count_is_a_count() -> None:
    assert num_oom_kills() >= 0
