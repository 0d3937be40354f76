"""Process of benchmarks.load_memory that builds an engine: FOLDER DTYPE; prints what it took."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from common.engine.quick_import import import_transformers

if __name__ == "__main__":
    import_transformers()
    # what it imports must come after the quick import
    from benchmarks.load_memory import build_measured

    print(json.dumps(asdict(build_measured(Path(sys.argv[1]), sys.argv[2]))))
