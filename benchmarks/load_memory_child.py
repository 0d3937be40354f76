"""Process of benchmarks.load_memory that builds an engine: FOLDER DTYPE; prints the bytes of its peak."""

import sys
from pathlib import Path

from common.engine.quick_import import import_transformers

if __name__ == "__main__":
    import_transformers()
    # what it imports must come after the quick import
    from benchmarks.load_memory import build_measured

    print(build_measured(Path(sys.argv[1]), sys.argv[2]))
