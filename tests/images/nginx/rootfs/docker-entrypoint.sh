#!/bin/sh
# Runs what a derived image puts into /docker-entrypoint.d, then becomes the command.
set -e
for script in /docker-entrypoint.d/*.sh; do
    if [ -x "$script" ]; then "$script"; fi
done
exec "$@"
