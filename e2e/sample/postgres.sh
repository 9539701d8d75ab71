#!/bin/sh
# The sample's PostgreSQL: makes its data once, with what is in /sql, then serves. It runs as a user without a name.
set -eu
export PGDATA=/data/pgdata LC_ALL=C
if [ ! -e "$PGDATA/PG_VERSION" ]; then
    @bin@/initdb --auth=trust --username=bookinfo --encoding=UTF8 --no-sync >/dev/null
    echo "host all all all trust" >>"$PGDATA/pg_hba.conf"
    echo "CREATE DATABASE bookinfo;" | @bin@/postgres --single postgres >/dev/null
    # The single-user mode takes one statement per line.
    @bin@/postgres --single -j bookinfo </sql/ratings.sql >/dev/null
fi
exec @bin@/postgres -c listen_addresses='*' -c unix_socket_directories=/tmp
