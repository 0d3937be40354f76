"""Engine process of benchmarks.cpu_levels: runs the work named on stdin, answers milliseconds."""

import json
import os
import sys
from pathlib import Path
from typing import cast

from benchmarks.timed_steps import CONTEXT, as_prefilled, build_warm, decode_again_ms, prefill_ms
from common.config import EngineConfig, StoredDtype
from common.telemetry.logs import configure_logs

_KV_GIB = 0.6  # 32 sequences at CONTEXT, in float32
_MOST = 32
_STEPS = 7


def main() -> None:
    """Serve stdin until it ends."""
    configure_logs("warning", process="engine")
    dtype = cast(StoredDtype, sys.argv[2])
    config = EngineConfig(dtype=dtype, kv_cache_gib=_KV_GIB)
    engine = build_warm(Path(sys.argv[1]), config, len(os.sched_getaffinity(0)))
    sequences = [as_prefilled(engine, CONTEXT) for _ in range(_MOST)]
    # run once, so that no sample pays for the first touch of memory
    prefill_ms(engine, 512)
    for line in sys.stdin:
        what, _, size = line.strip().partition(" ")
        if what == "ready":
            answer = 0.0
        elif what == "decode":
            answer = decode_again_ms(engine, sequences[: int(size)], _STEPS)
        else:
            answer = prefill_ms(engine, int(size))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
