#!/usr/bin/env bash
# docs/promises.md does not rot: each test that it names is there, each row names one, and for each document it speaks of as many
# "never" and "always" as that has.
set -euo pipefail
cd "$(dirname "$0")/.."

page=docs/promises.md
bad=0
tests=0
report() {
  echo "$page: $1"
  bad=$((bad + 1))
}

# Whether a file has the test, as its language writes it.
has() {
  case $1 in
    *.rs) grep -qE "fn $2(\(|<)" "$1" ;;
    *.py) grep -qE "^def $2\(" "$1" ;;
    *.mjs) grep -qF "test(\"$2\"" "$1" ;;
    *) return 1 ;;
  esac
}

while read -r named; do
  tests=$((tests + 1))
  where=${named%%::*} what=${named#*::}
  case $where in
    sim) grep -rqF "\"$what\"" src/sim || report "the simulator has no invariant \"$what\"" ;;
    plant) grep -q "Rule::$what,$" src/plant.rs || report "no campaign looks for the planted bug $what" ;;
    *) [ -e "$where" ] && has "$where" "$what" || report "there is no test $named" ;;
  esac
done < <(grep -oE '`[^`]+::[^`]+`' "$page" | tr -d '`' | sort -u)

while read -r script; do
  tests=$((tests + 1))
  [ -e "$script" ] || report "there is no $script"
done < <(grep -oE '`tests/[a-z_/]+\.(sh|py)`' "$page" | tr -d '`' | sort -u)

# Rows that name nothing that could fail.
while read -r row; do
  report "no test in the row: $row"
done < <(grep -E '^\| ' "$page" | grep -vE '^\| (promise|sentence|fault) \|' | grep -vE '`(sim|plant|(src|tests)/[a-z_./]+)::|`tests/[a-z_/]+\.(sh|py)`' || true)

for document in README.md ARCHITECTURE.md docs/*.md; do
  [ "$document" != "$page" ] || continue
  said=$({ grep -oiwE 'never|always' "$document" || true; } | wc -l)
  listed=$(sed -n "s|^## $document: \([0-9]*\)$|\1|p" "$page")
  [ "$said" = "${listed:-none}" ] ||
    report "$document says \"never\" or \"always\" $said times, and this page knows of ${listed:-none}: list what is new"
done

echo "promises: $tests tests are named, $bad faults"
[ "$bad" = 0 ]
