"""Entry point of the script `pdserve`, and of `python -m pdserve`.

The program is the package `cli`, which a wheel has as `pdserve._server.cli`. Both are named in
text, since this library imports nothing of the server.
"""

import importlib
import importlib.util


def main() -> None:
    """Run the program until it exits."""
    is_wheel = importlib.util.find_spec("pdserve._server") is not None
    program = importlib.import_module("pdserve._server.cli.main" if is_wheel else "cli.main")
    program.main()


if __name__ == "__main__":
    main()
