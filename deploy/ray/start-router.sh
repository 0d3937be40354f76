#!/bin/bash
# Runs the router on the head node, once a node of each role is there: a worker is bound to nodes of its role only if
# Ray knows such a node when `pdserve serve` starts.
set -euo pipefail
python - <<'PY'
import time

import ray

ray.init("auto")
while not {"prefill", "decode"} <= ray.cluster_resources().keys():
    time.sleep(5)
PY
exec pdserve serve --config "$(dirname "$0")/pdserve.yaml" --ray-address auto
