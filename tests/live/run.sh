#!/usr/bin/env bash
# Runs the live tests: they start HBase (and what else they need) from Maven Central on free loopback
# ports and stop it. Needs a JDK 17 and Maven; downloads stay in ${XDG_CACHE_HOME:-~/.cache}/tagloom/live.
# Arguments go to the tests, as in: tests/live/run.sh hbase_terms
set -euo pipefail
cd "$(dirname "$0")/../.."

missing=()
command -v java > /dev/null || missing+=("java (a JDK 17: openjdk-17-jdk-headless)")
command -v javac > /dev/null || missing+=("javac (a JDK 17: openjdk-17-jdk-headless)")
command -v mvn > /dev/null || missing+=("mvn (maven)")
if [ ${#missing[@]} -gt 0 ]; then
  printf 'tests/live/run.sh needs: %s\n' "${missing[@]}" >&2
  printf 'on Debian: apt-get install openjdk-17-jdk-headless maven\n' >&2
  exit 1
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
# One after the other: each has servers of its own, about 1.5 GB.
timeout "${LIVE_SECONDS_MAX:-1500}" \
  cargo test --release --test live -- --ignored --test-threads=1 "$@" 2>&1 | tee "$log"
passed=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' "$log" | awk '{n += $1} END {print n + 0}')
[ "$passed" -gt 0 ] || { echo 'no live test ran' >&2; exit 1; }
echo "$passed passed"
