#!/bin/sh
# Before a head node goes: tell its jobs to stop, and wait. Each has RAY_JOB_STOP_WAIT_TIME_S to write a checkpoint.
jobs=$(wget --quiet --output-document=- --header="Authorization: Bearer $RAY_AUTH_TOKEN" "http://127.0.0.1:${RAY_DASHBOARD_PORT:-8265}/api/jobs/")
running=$(printf '%s' "$jobs" | sed 's/"driver_info": *{[^}]*}/"driver_info": null/g' | tr '{' '\n' \
    | grep -E '"status": *"(RUNNING|PENDING)"' | sed -n 's/.*"submission_id": *"\([^"]*\)".*/\1/p')
for job in $running; do
    ray job stop --address "http://127.0.0.1:${RAY_DASHBOARD_PORT:-8265}" "$job" &
done
wait
