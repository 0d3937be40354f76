import json
import subprocess
import sys

import structlog

from common.telemetry.logs import describe_exception
from tests.patience import WITHIN_S

SECRET = "what the user said"


def fail_with(text: str) -> None:
    try:
        dict[str, str]()[text]
    except KeyError as error:
        raise ValueError(f"cannot take {text!r}") from error


def describe(error: BaseException | bool) -> structlog.typing.EventDict:
    return describe_exception(None, "error", {"event": "generate_failed", "exc_info": error})


def test_an_exception_is_its_types_and_places_and_not_its_message() -> None:
    try:
        fail_with(SECRET)
    except ValueError as error:
        given, current = describe(error), describe(True)
    assert given == current
    text = given["exception"]
    assert text.index("ValueError") < text.index("caused by builtins.KeyError")
    assert "in fail_with" in text
    assert SECRET not in str(given)


def test_a_line_without_an_exception_stays_as_it_is() -> None:
    assert describe(False) == {"event": "generate_failed"}
    assert describe(True) == {"event": "generate_failed"}  # none is being handled


def test_a_process_logs_one_json_object_a_line() -> None:
    code = (
        "from common.telemetry.logs import configure_logs, get_logger\n"
        "configure_logs(process='p')\n"
        "log = get_logger()\n"
        "log.debug('silent'); log.info('one', n=1)\n"
        "try: int('quoted')\n"
        "except ValueError: log.exception('two')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=WITHIN_S, check=True
    )
    one, two = map(json.loads, done.stderr.splitlines())
    assert (one["event"], one["n"], one["process"], one["level"]) == ("one", 1, "p", "info")
    assert "builtins.ValueError" in two["exception"]
    assert "quoted" not in two["exception"].replace("int('quoted')", "")
