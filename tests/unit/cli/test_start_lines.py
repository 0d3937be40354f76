import pytest

from cli.start_lines import start_lines


def test_where_nobody_watches_only_what_is_over_is_printed_as_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = "decode-0: compiling kernels took 12.3 s ([3] new, " + "x" * 200 + ")"
    with start_lines() as lines:
        lines.now("decode-0: compiling kernels (3 s)")
        lines.done(line)
        lines.stop()
    out, err = capsys.readouterr()
    assert (out, err.rstrip("\n")) == ("", line)
