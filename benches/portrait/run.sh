#!/usr/bin/env bash
# The portrait workload through tagloom: loads dimensions, runs the three streams as of the manifest's
# instant, exports OUT/tags.parquet. The last line is JSON with counts, times and memory up to the
# last profile stored (without the export).
#
#   benches/portrait/run.sh DATA OUT [--memory] [--then-as-of-ms MS]
#
# DATA holds register.jsonl, consume.jsonl, cancel.jsonl, user_dim.csv, city_dim.csv, manifest.json.
set -euo pipefail

usage() { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
data=${1:-}; out=${2:-}
[ -n "$data" ] && [ -n "$out" ] || usage
shift 2
extra=(); durable=1
while [ $# -gt 0 ]; do
  case "$1" in
    --memory) durable=0; extra+=(--memory) ;;
    --then-as-of-ms) [ $# -ge 2 ] || usage; extra+=(--then-as-of "$2"); shift ;;
    *) usage ;;
  esac
  shift
done
[ -f "$data/manifest.json" ] || { echo "$data/manifest.json: no such file" >&2; exit 2; }

target=${CARGO_TARGET_DIR:-}
if [ -z "$target" ]; then
  target=$root/target
  [ -x "$target/release/tagloom" ] || target=$HOME/.cache/tagloom/target
fi
binary=$target/release/tagloom
(cd "$root" && CARGO_TARGET_DIR=$target cargo build --release --quiet --bin tagloom)

as_of=$(grep -o '"as_of_ms": *[0-9]*' "$data/manifest.json" | head -n 1 | grep -o '[0-9]*$')
mkdir -p "$out"
store=$out/store
rm -rf "$store"

"$binary" run --json --catalog "$here/catalog" --set store.path="$store" --as-of "$as_of" \
  --source register="$data/register.jsonl" --source consume="$data/consume.jsonl" \
  --source cancel="$data/cancel.jsonl" \
  --dims user_dim="$data/user_dim.csv" --dims city_dim="$data/city_dim.csv" \
  --export "$out/tags.parquet" "${extra[@]}"
[ "$durable" = 1 ] || rm -rf "$store"
