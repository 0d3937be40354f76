"""Kernels never compile during a request, whatever its options: a loaded engine has them all."""

import subprocess
import sys
from pathlib import Path

from tests.patience import WITHIN_S
from tests.unit.common.engine.tiny_models import save_model

# each case in a process of its own, where no other has compiled anything; they share what is imported
SCRIPT = """
import os, sys
from dataclasses import replace
from pathlib import Path
from tests.unit.common.engine.sequences import hold, make_sequence
from tests.unit.common.engine.tiny_models import engine_config, make_engine
from common.engine.batch import Batch, BatchEntry
from common.messages import SamplingParams

for dtype, fusion in (("float32", "auto"), ("bfloat16", "off")):
    if os.fork() == 0:
        break
else:
    ends = [os.wait()[1] for _ in range(2)]
    sys.exit(f"ended with {ends}" if any(ends) else 0)

engine = make_engine(Path(sys.argv[1]), engine_config(dtype=dtype, fusion=fusion))
from common.engine.cpu import masking, sampling_kernel, truncation_kernel
from numba.core.registry import CPUDispatcher
kernels = [v for m in (masking, sampling_kernel, truncation_kernel) for v in vars(m).values()
           if isinstance(v, CPUDispatcher)]
known = [len(kernel.signatures) for kernel in kernels]
plain = SamplingParams(0.0, 0, 2)
for sampling in (plain, replace(plain, temperature=0.7), replace(plain, min_tokens=1),
                 replace(plain, temperature=0.7, top_k=2), replace(plain, temperature=0.7, top_p=0.5),
                 replace(plain, temperature=0.7, min_p=0.5), replace(plain, logit_bias=((3, 1.0),)),
                 replace(plain, bad_words=((3,),)), replace(plain, bad_words=((3,),), logit_bias=((3, 1.0),)),
                 replace(plain, presence_penalty=1.0, prompt_logprobs=2, logprobs=2)):
    seq = hold(engine.pool, make_sequence(5, sampling))
    engine.runner.run(Batch((BatchEntry(seq, 5),)))
assert len(known) > 5 and known == [len(kernel.signatures) for kernel in kernels], known
# code with an address of this process in it is compiled at each start, see kernel_cache.py
for kernel in kernels:
    assert not any(code.library.has_dynamic_globals for code in kernel.overloads.values()), kernel
"""


def test_a_loaded_engine_compiles_no_sampling_kernel(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
