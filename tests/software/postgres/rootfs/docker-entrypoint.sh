#!/bin/sh
# Makes a database where there is none, and starts the server: what the official image does, as far as it is used here.
set -eu
[ "$1" = postgres ] || exec "$@"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    password=$(mktemp)
    printf '%s\n' "$POSTGRES_PASSWORD" >"$password"
    initdb --username="${POSTGRES_USER:-postgres}" --pwfile="$password" --auth=scram-sha-256 --no-sync
    rm "$password"
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
fi
exec "$@"
