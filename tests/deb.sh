#!/usr/bin/env bash
# The Debian package: it is made, holds what it should, and what is unpacked of it runs.
set -euo pipefail
cd "$(dirname "$0")/.."
program=${1:-target/debug/lamplight}

dir=$(mktemp -d)
node=
finish() {
  if [ -n "$node" ]; then kill "$node" 2>/dev/null || true; fi
  rm -rf "$dir"
}
trap finish EXIT

fail() {
  echo "deb: $*" >&2
  exit 1
}

package=$(packaging/deb.sh "$program" "$dir")
contents=$(dpkg-deb --contents "$package" | awk '{ print $1, $2, $6 }')
for file in ./usr/bin/lamplight ./lib/systemd/system/lamplight.service ./etc/lamplight/lamplight.toml \
  ./usr/lib/sysusers.d/lamplight.conf ./usr/share/man/man1/lamplight.1.gz ./usr/share/man/man1/lamplight-serve.1.gz \
  ./usr/share/bash-completion/completions/lamplight ./usr/share/zsh/vendor-completions/_lamplight \
  ./usr/share/fish/vendor_completions.d/lamplight.fish ./usr/share/doc/lamplight/copyright; do
  grep -q " root/root $file\$" <<<"$contents" || fail "the package has no $file of root"
done
grep -q '^-rwxr-xr-x root/root ./usr/bin/lamplight$' <<<"$contents" || fail "the program cannot be run"
# What is looked through is read whole first: a writer whose reader has found its line and gone would fail.
control=$(dpkg-deb --info "$package")
grep -Eq '^ Depends: libc6 \(>= 2\.[0-9]+\), libgcc-s1$' <<<"$control" || fail "it depends on no C library"

# Unpacked beside the system: its scripts would change this one, so they are only read.
root=$dir/root
dpkg-deb -x "$package" "$root"
grep -q '^lamplight [0-9]' <<<"$("$root/usr/bin/lamplight" --version)" || fail "the program does not say its version"
grep -q 'LAMPLIGHT_LISTEN' <<<"$(zcat "$root/usr/share/man/man1/lamplight-serve.1.gz")" || fail "the manual does not name the variables"
bash -n "$root/usr/share/bash-completion/completions/lamplight"
for script in postinst prerm postrm; do
  dpkg-deb --ctrl-tarfile "$package" | tar -xO "./$script" | sh -n
done

# The file of the package is one that a node takes, also with every line of it that is only proposed.
config=$root/etc/lamplight/lamplight.toml
grep -v '^#*listen = "127' "$config" | sed -E 's/^#([a-z-]+ = )/\1/' >"$dir/all.toml"
"$root/usr/bin/lamplight" get --help --config "$dir/all.toml" >/dev/null || fail "the file proposes what is no key"
"$root/usr/bin/lamplight" serve --config "$config" --listen 127.0.0.1:0 --data "$dir/data" 2>"$dir/log" &
node=$!
end=$((SECONDS + 60))
until grep -q 'ready: it takes reads and writes' "$dir/log"; do
  kill -0 "$node" 2>/dev/null && [ "$SECONDS" -lt "$end" ] || { cat "$dir/log" >&2; fail "the node does not come up"; }
  sleep 0.1
done
kill "$node"
wait "$node" || fail "the node does not end well"
node=

# Of the unit as it is, but for where the program lies here.
if command -v systemd-analyze >/dev/null; then
  unit=$dir/lamplight.service
  sed "s#^ExecStart=/usr#ExecStart=$root/usr#" "$root/lib/systemd/system/lamplight.service" >"$unit"
  systemd-analyze verify --man=no "$unit" 2>&1 | tee "$dir/verified"
  if grep -q 'lamplight' "$dir/verified"; then fail "systemd finds fault with the unit"; fi
  systemd-analyze security --offline=true --threshold=25 "$unit" | tail -n 1
fi
echo "the package is whole: $(du -h "$package" | cut -f1)"
