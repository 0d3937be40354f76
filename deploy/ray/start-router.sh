#!/bin/bash
# Runs the router on the head node. Where Ray was restarted (`ray up` without --no-restart), a router of the Ray
# before is ended first: it keeps the ports, and its workers are gone.
set -euo pipefail
pid_file=~/pdserve.pid
is_router() { [[ -r /proc/$1/cmdline ]] && grep -qa pdserve "/proc/$1/cmdline"; }
if [[ -f $pid_file ]] && is_router "$(<"$pid_file")"; then
    kill "$(<"$pid_file")"
    # its drain_timeout_s and the end of its workers, which are gone
    timeout 120 tail --pid="$(<"$pid_file")" -f /dev/null || kill -9 "$(<"$pid_file")"
fi
echo $$ >"$pid_file"
exec pdserve serve --config "$(dirname "$0")/pdserve.yaml" --ray-address auto
