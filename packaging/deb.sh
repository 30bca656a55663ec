#!/usr/bin/env bash
# Makes a Debian package of the program with Debian's own dpkg-deb: packaging/deb.sh [PROGRAM [DIRECTORY]]. Without PROGRAM it is
# built; the package goes to DIRECTORY, target/debian if left out. Prints the package's path.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -gt 2 ] || [ "${1-}" = --help ]; then
  echo "usage: packaging/deb.sh [PROGRAM [DIRECTORY]]" >&2
  exit 2
fi
if ! command -v dpkg-deb >/dev/null; then
  echo "deb.sh: dpkg-deb is not here; Debian and its kin have it (package dpkg)" >&2
  exit 1
fi
program=${1-}
out=${2-target/debian}
if [ -z "$program" ]; then
  cargo build --release --locked --bin lamplight >&2
  program=target/release/lamplight
fi

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
arch=$(dpkg --print-architecture)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
umask 022

install -D -m 755 "$program" "$root/usr/bin/lamplight"
if command -v strip >/dev/null; then strip --strip-unneeded "$root/usr/bin/lamplight"; fi
install -D -m 644 packaging/lamplight.service "$root/lib/systemd/system/lamplight.service"
install -D -m 640 packaging/lamplight.toml "$root/etc/lamplight/lamplight.toml"
install -d "$root/usr/lib/sysusers.d"
echo 'u lamplight - "Lamplight" /var/lib/lamplight' >"$root/usr/lib/sysusers.d/lamplight.conf"

# What the builder's environment says is no part of a manual.
lamplight() { env -i "$root/usr/bin/lamplight" "$@"; }
lamplight man --output "$root/usr/share/man/man1"
gzip -9n "$root"/usr/share/man/man1/*.1
install -d "$root/usr/share/bash-completion/completions" "$root/usr/share/zsh/vendor-completions" "$root/usr/share/fish/vendor_completions.d"
lamplight completions bash >"$root/usr/share/bash-completion/completions/lamplight"
lamplight completions zsh >"$root/usr/share/zsh/vendor-completions/_lamplight"
lamplight completions fish >"$root/usr/share/fish/vendor_completions.d/lamplight.fish"

doc=$root/usr/share/doc/lamplight
install -D -m 644 -t "$doc" README.md CHANGELOG.md docs/*.md
install -m 644 LICENSE "$doc/copyright"

# The newest version of the C library that the program asks for.
libc=$(grep -ao 'GLIBC_2\.[0-9]*' "$root/usr/bin/lamplight" | sort -uV | tail -n 1 | cut -d_ -f2)
install -d "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<END
Package: lamplight
Version: $version
Architecture: $arch
Maintainer: Lamplight <lamplight@localhost>
Section: database
Priority: optional
Depends: libc6 (>= ${libc:-2.36}), libgcc-s1
Recommends: ca-certificates
Suggests: bash-completion
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Description: leaderless live database
 Every node of a pool holds all the data in memory and takes reads and writes
 on its own; nodes gossip their operations to each other. Cut the network
 anywhere and every node goes on working; join it again and all nodes reach the
 same state.
END
echo /etc/lamplight/lamplight.toml >"$root/DEBIAN/conffiles"
cat >"$root/DEBIAN/postinst" <<'END'
#!/bin/sh
set -e
if [ "$1" = configure ]; then
  if command -v systemd-sysusers >/dev/null; then
    systemd-sysusers lamplight.conf
  elif ! getent passwd lamplight >/dev/null; then
    useradd --system --user-group --home-dir /var/lib/lamplight --shell /usr/sbin/nologin lamplight
  fi
  chown root:lamplight /etc/lamplight /etc/lamplight/lamplight.toml
  chmod 750 /etc/lamplight
  # It is not started unasked; one that runs goes on with the new program.
  if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl try-restart lamplight.service
  fi
fi
END
cat >"$root/DEBIAN/prerm" <<'END'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
  systemctl disable --now lamplight.service
fi
END
cat >"$root/DEBIAN/postrm" <<'END'
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
# The data goes only when all of the package is to go.
if [ "$1" = purge ]; then rm -rf /var/lib/lamplight; fi
END
chmod 755 "$root"/DEBIAN/{postinst,prerm,postrm}

mkdir -p "$out"
package=$out/lamplight_${version}_$arch.deb
dpkg-deb --root-owner-group --build "$root" "$package" >&2
echo "$package"
