#!/bin/sh
# Writes infra/.env from infra/.env.example: a random value for each name without one, readable by its owner alone. Never overwrites.
set -eu
cd "$(dirname "$0")"
if [ -e .env ]; then
    echo "infra/.env is there already; move it away for new passwords (what was set up with the old ones keeps them)" >&2
    exit 1
fi
umask 077
trap 'rm -f .env.new' EXIT
while IFS= read -r line; do
    case $line in
        [A-Z]*=) line=$line$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n') ;;
    esac
    printf '%s\n' "$line"
done < .env.example > .env.new
mv .env.new .env
echo "wrote infra/.env"
