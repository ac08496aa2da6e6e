#!/usr/bin/env bash
# A node says that it is about to go, and goes: no new work comes to it, and training saves a checkpoint.
# The hook of KubeRay's pods (preStop), and for any other notice that a cloud gives:  drain.sh [SECONDS LEFT]
set -euo pipefail

seconds=${1:-90}
node=$(python -c '
import ray
ray.init("auto", log_to_driver=False, logging_level="ERROR")
print(ray.get_runtime_context().get_node_id())' | tail -n 1)
ray drain-node --node-id "$node" --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "the node is taken away" \
    --deadline-remaining-seconds "$seconds"
for ((i = 0; i < seconds; i++)); do
    pgrep -f raylet/raylet >/dev/null || break # idle nodes go at once
    sleep 1
done
ray stop
