#!/bin/sh
# On a spot instance: ask EC2 every 5 seconds whether this machine will be taken away, and tell Ray, so that the training writes a checkpoint.
# The only argument is the head's address. EC2 gives two minutes.
set -u
metadata=http://169.254.169.254/latest
while sleep 5; do
    session=$(curl --silent --max-time 2 --request PUT --header 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/api/token") || continue
    curl --silent --fail --max-time 2 --output /dev/null --header "X-aws-ec2-metadata-token: $session" "$metadata/meta-data/spot/instance-action" || continue
    break
done
POD_IP=$(hostname -I | cut -d ' ' -f 1) RAY_ADDRESS=$1:6379 RAYGAN_DRAIN_SECONDS=90 exec sh "$(dirname "$0")/../kuberay/base/scripts/drain.sh"
