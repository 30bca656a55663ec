#!/usr/bin/env bash
# The core is pure and imports point down only. Prints each line that breaks this.
#
# Comments and test modules are not read. A HashMap or HashSet is let through where a comment on its line says
# "never iterated"; what else a rule forbids has no exception but a change of the tables here.
set -euo pipefail
cd "$(dirname "$0")/.."

core="op version snapshot document record replica wire"

# What each module may name of the crate. `plant` is the switches that leave out a rule for the simulator.
declare -A may=(
  [op]="version plant"
  [version]="op plant"
  [wire]="op snapshot document plant"
  [document]="op version snapshot plant"
  [record]="op snapshot"
  [snapshot]="op"
  [replica]="op version snapshot document record wire plant"
  [plant]=""
  [sim]="$core plant"
  # What counts is no part of the core, which counts for itself: its counters are plain numbers.
  [meter]=""
  [storage]="$core meter"
  [node]="$core meter storage"
  [api]="$core meter storage node"
)

# Words that a pure module never needs: sockets, files, processes, clocks, tasks, locks, chance, hash order, the terminal.
banned='\<(std::(net|fs|env|process|thread|os|io::std(in|out|err))|Instant|SystemTime|now_v[167]|new_v[467]|tokio|axum|hyper|hyper_util|tungstenite|tokio_tungstenite|futures_util|turmoil|async|await|Mutex|RwLock|Condvar|mpsc|thread_local|static mut|getrandom|thread_rng|OsRng|e?print(ln)?!|dbg!|unsafe)'
hashed='\<(HashMap|HashSet|RandomState)\>'

# The files of a module, without its test files.
files() {
  local path
  for path in "src/$1.rs" "src/$1"; do
    if [ -e "$path" ]; then
      find "$path" -name '*.rs' ! -name tests.rs ! -path '*/tests/*'
    fi
  done | sort
}

# `file:line:text` of a file without its test modules and comments; "never iterated" is kept as a mark.
code() {
  awk '
    skip { if (/^\}/) skip = 0; next }
    /^#\[cfg\(.*test.*\)\]$/ { held = 1; next }
    held && /^(pub(\([a-z]+\))? )?mod [a-z_]+ \{/ { held = 0; skip = 1; next }
    { held = 0
      mark = /\/\/.*never iterated/ ? " //never iterated" : ""
      sub(/^[ \t]*\/\/.*/, ""); sub(/[ \t]\/\/.*/, "")
      if ($0 != "") print FILENAME ":" FNR ":" $0 mark }
  ' "$1"
}

# `file:line:std::x` for each first name in a group `std::{a, b::{c}}`, and `file:line:module` for each module named through
# `crate::` or through enough `super::` to reach the crate root.
paths() {
  local depth
  depth=$(tr -dc / <<<"${1%/mod.rs}" | wc -c)
  code "$1" | awk -v depth="$depth" '
    function emit(root, name) {
      if (name == "self" || name == "") return
      print where ":" (root == "std" ? "std::" name : name)
    }
    # Walks the text after an opening brace, over lines where need be, and emits the names at the first level.
    function group(text,   i, ch) {
      for (i = 1; i <= length(text); i++) {
        ch = substr(text, i, 1)
        if (ch == "{") level++
        else if (ch == "}") { level--; if (level == 0) { emit(open_root, name); open_root = ""; return substr(text, i + 1) } }
        if (level == 1 && ch == ",") { emit(open_root, name); name = ""; first = 1 }
        else if (level == 1 && first && ch ~ /[A-Za-z0-9_]/) name = name ch
        else if (level == 1 && name != "") first = 0
      }
      return ""
    }
    function scan(text,   rest, root) {
      while (match(text, roots)) {
        root = substr(text, RSTART, RLENGTH)
        rest = substr(text, RSTART + RLENGTH)
        root = root ~ /std::$/ ? "std" : "crate"
        if (substr(rest, 1, 1) == "{") { open_root = root; level = 1; first = 1; name = ""; rest = group(substr(rest, 2)) }
        else if (root == "crate" && match(rest, /^[A-Za-z0-9_]+/)) emit(root, substr(rest, 1, RLENGTH))
        text = rest
      }
    }
    BEGIN {
      up = ""
      for (i = 0; i < depth; i++) up = up "super::"
      plain = "(crate::|std::)"
      outer = "(crate::|std::|" up ")"
    }
    {
      split($0, part, ":")
      where = part[1] ":" part[2]
      text = substr($0, length(where) + 2)
      # In a module written within the file `super` is the file itself.
      if (text ~ /^(pub(\([a-z]+\))? )?mod [a-z_]+ \{/) inner = 1
      else if (text ~ /^\}/) inner = 0
      roots = inner ? plain : outer
      if (open_root != "") text = group(text)
      scan(text)
    }'
}

bad=0
seen=0
report() {
  echo "$1"
  bad=$((bad + 1))
}

for module in $core; do
  if [ -z "$(files "$module")" ]; then report "src/$module: no such module of the core"; fi
  while read -r file; do
    seen=$((seen + 1))
    while read -r line; do
      report "$line   [not in the core]"
    done < <(
      code "$file" | grep -E "^[^:]*:[0-9]*:.*$banned" || true
      code "$file" | grep -v '//never iterated$' | grep -E "^[^:]*:[0-9]*:.*$hashed" || true
      paths "$file" | grep -E ':std::(net|fs|env|process|thread|os)$' || true
    )
  done < <(files "$module")
done

for module in "${!may[@]}"; do
  while read -r file; do
    while IFS= read -r line; do
      name=${line##*:}
      case " $module ${may[$module]} " in
        *" $name "*) ;;
        *) report "${line%:*}: src/$module names crate::$name   [it may name: ${may[$module]:-nothing}]" ;;
      esac
    done < <(paths "$file" | grep -v ':std::' || true)
  done < <(files "$module")
done

echo "core only: $seen files read, $bad lines break the rule"
[ "$bad" = 0 ]
