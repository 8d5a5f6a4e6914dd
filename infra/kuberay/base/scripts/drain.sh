#!/bin/sh
# Before a worker node goes: tell Ray, which takes no more work here and tells the training; then leave time for a checkpoint.
seconds=${RAYGAN_DRAIN_SECONDS:-60}
node=$(ray list nodes --address "${RAY_ADDRESS:-auto}" --filter "node_ip=$POD_IP" --filter state=ALIVE --format json \
    | sed -n 's/.*"node_id": *"\([^"]*\)".*/\1/p' | head -n 1)
[ -n "$node" ] || exit 0
ray drain-node --node-id "$node" --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "the pod is told to stop" \
    --deadline-remaining-seconds "$seconds"
sleep "$seconds"
