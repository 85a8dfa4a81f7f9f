#!/usr/bin/env bash
# The portrait workload through tagloom and its peers, one after the other on one machine.
#
#   benches/peers/run.sh DATA OUT [--flink DIR] [--oracle FILE] [--binary FILE] [--commit TEXT] [--runs N]
#
# DATA     register.jsonl, consume.jsonl, cancel.jsonl, user_dim.csv, city_dim.csv, manifest.json
# OUT      results.jsonl (a line a run), table.md and what the runs write
# --flink  the folder of the Flink job: its run.sh knows `build` and `files DATA`; it builds in OUT/flink
# --oracle the workload's reference in DuckDB, with spec.json beside it: DuckDB as one batch, and each
#          user alone (SQLite, a sample). Needs Python's duckdb; digests of tagloom need it too
# --binary tagloom; otherwise it is built. --commit says what it was built from
# --runs   each peer so often, in turns (3). HEAP sets the JVM's heap flags
set -euo pipefail

usage() { sed -n '2,12p' "$0" | sed 's/^# \{0,1\}//' >&2; exit 2; }

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
data=${1:-}; out=${2:-}
[ -n "$data" ] && [ -n "$out" ] || usage
shift 2
flink=; oracle=; binary=; commit=; runs=3
while [ $# -gt 1 ]; do
  case "$1" in
    --flink) flink=$2 ;;
    --oracle) oracle=$2 ;;
    --binary) binary=$2 ;;
    --commit) commit=$2 ;;
    --runs) runs=$2 ;;
    *) usage ;;
  esac
  shift 2
done
[ $# -eq 0 ] || usage
[ -f "$data/manifest.json" ] || { echo "$data/manifest.json: no such file" >&2; exit 2; }

if [ -z "$binary" ]; then
  target=${CARGO_TARGET_DIR:-$root/target}
  (cd "$root" && CARGO_TARGET_DIR=$target cargo build --release --quiet --bin tagloom)
  binary=$target/release/tagloom
fi
mkdir -p "$out/flink"
out=$(cd "$out" && pwd)
[ -z "$flink" ] || DIR=$out/flink "$flink/run.sh" build

exec python3 "$here/compare.py" --data "$data" --out "$out" --binary "$binary" --runs "$runs" \
  ${flink:+--flink "$flink"} ${oracle:+--oracle "$oracle"} ${commit:+--commit "$commit"}
