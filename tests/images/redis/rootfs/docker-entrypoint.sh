#!/bin/sh
# Starts the server as its own user; whatever else is asked for runs as it is.
set -e
if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
    chown redis:redis .
    exec setpriv --reuid redis --regid redis --clear-groups -- "$0" "$@"
fi
exec "$@"
