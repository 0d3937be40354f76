"""Program of a test: prints how many threads a team needs beyond those of the pool, and of torch."""

import os

import torch  # first, as in a worker: kernels then share its OpenMP

from common.engine.cpu.program import Program
from common.engine.cpu.step_kernels import convert
from common.engine.cpu.threads import set_num_threads

set_num_threads(2)
x, out = torch.ones(64, 64), torch.zeros(64, 64)
torch.mm(x, x, out=out)
convert(x.numpy(), out.numpy())
before = len(os.listdir("/proc/self/task"))
program = Program()
program.add(convert, x.numpy(), out.numpy())
program.run()
print(len(os.listdir("/proc/self/task")) - before, "more threads")
