#!/usr/bin/env bash
# Runs the live tests: they start Kafka, HBase and Debezium from Maven Central, and MariaDB, on free loopback
# ports and stop them. Needs a JDK 17, Maven and MariaDB; jars stay in ${XDG_CACHE_HOME:-~/.cache}/tagloom/live.
# Arguments go to the tests, as in: tests/live/run.sh hbase_terms
# Without arguments all run but the measurements (rates), and one that fails is tried once more, since real
# servers on a busy machine miss a deadline now and then; which ones these were is told at the end.
set -euo pipefail
cd "$(dirname "$0")/../.."

missing=()
command -v java > /dev/null || missing+=("java (a JDK 17: openjdk-17-jdk-headless)")
command -v javac > /dev/null || missing+=("javac (a JDK 17: openjdk-17-jdk-headless)")
command -v mvn > /dev/null || missing+=("mvn (maven)")
PATH=$PATH:/usr/sbin command -v mariadbd > /dev/null || missing+=("mariadbd (MariaDB: mariadb-server)")
command -v mariadb-install-db > /dev/null || missing+=("mariadb-install-db (MariaDB: mariadb-server)")
if [ ${#missing[@]} -gt 0 ]; then
  printf 'tests/live/run.sh needs: %s\n' "${missing[@]}" >&2
  printf 'on Debian: apt-get install openjdk-17-jdk-headless maven mariadb-server\n' >&2
  exit 1
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
# One after the other: each has servers of its own, about 1.5 GB.
run() {
  timeout "${LIVE_SECONDS_MAX:-2400}" \
    cargo test --release --test live -- --ignored --test-threads=1 "$@" 2>&1 | tee "$log"
}
count() { sed -n 's/^test result: [^ ]* \([0-9]*\) passed.*/\1/p' "$log" | awk '{n += $1} END {print n + 0}'; }

if [ $# -gt 0 ]; then
  run "$@"
  passed=$(count)
elif run --skip rates_of --skip delays_at; then
  passed=$(count)
else
  passed=$(count)
  failed=$(sed -n '/^failures:$/,/^test result/s/^    \([a-z_0-9:]*\)$/\1/p' "$log" | sort -u)
  [ -n "$failed" ] || exit 1
  for name in $failed; do
    echo "once more: $name"
    run --exact "$name"
    passed=$((passed + $(count)))
  done
  printf 'passed at the second try only: %s\n' $failed
fi
[ "$passed" -gt 0 ] || { echo 'no live test ran' >&2; exit 1; }
echo "$passed passed"
