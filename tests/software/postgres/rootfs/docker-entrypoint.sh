#!/bin/sh
# Makes a database where there is none, and starts the server: what the official image does, as far as it is used here.
set -eu
[ "$1" = postgres ] || exec "$@"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    # Beside its place, where that is not there yet: what a machine that ends here leaves half made is made again.
    made=$PGDATA; [ -d "$PGDATA" ] || made=$PGDATA.new
    rm -rf "$PGDATA.new"
    password=$(mktemp)
    printf '%s\n' "$POSTGRES_PASSWORD" >"$password"
    initdb --pgdata="$made" --username="${POSTGRES_USER:-postgres}" --pwfile="$password" --auth=scram-sha-256
    rm "$password"
    echo "host all all all scram-sha-256" >>"$made/pg_hba.conf"; sync "$made/pg_hba.conf"
    [ "$made" = "$PGDATA" ] || mv "$made" "$PGDATA"
fi
exec "$@"
