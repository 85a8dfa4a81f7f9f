#!/usr/bin/env bash
# All checks: format, lints, documentation, tests, and tests on real servers. Builds go where cargo puts them.
set -euo pipefail
cd "$(dirname "$0")"

step() { printf '\n== %s\n' "$*"; }

step "format";        cargo fmt --check
step "lints";         cargo clippy --release --all-targets --quiet -- -D warnings
step "documentation"; RUSTDOCFLAGS="-D warnings" cargo doc --release --no-deps --quiet
step "tests";         cargo test --release
step "benches, each once"
cargo bench --quiet --bench actor --bench decode --bench http --bench store --bench window -- --test
step "example catalogue"
cargo run --release --quiet -- check --catalog tags
cargo run --release --quiet -- check --catalog benches/portrait/catalog
step "live tests: Kafka, HBase, MariaDB"
tests/live/run.sh
