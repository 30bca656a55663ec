#!/usr/bin/env bash
# Sees to it that the Dockerfile's base image is there: the local one, else the pulled one, else a stand-in of the same
# name made from Debian's packages, this machine's Rust toolchain and the crates of Cargo.lock, so that the real
# Dockerfile builds where no image registry and, inside containers, no crate registry can be reached.
set -euo pipefail
cd "$(dirname "$0")/.."

label=lamplight.stand-in
work=$PWD/target/images

die() {
  echo "images.sh: $*" >&2
  exit 1
}

# Debian with a C linker and the toolchain, laid out as in the official image; made once for each Rust release.
make_base() {
  local base=$1 sysroot root arch
  sysroot=$(rustc --print sysroot)
  [ -x "$sysroot/bin/cargo" ] || die "no cargo in $sysroot: install Rust with rustup"
  [ "$(id -u)" = 0 ] || die "making the base image needs root: run tests/images.sh once with sudo -E"
  command -v debootstrap >/dev/null || die "install debootstrap"
  arch=$(rustc -vV | sed -n 's/^host: //p')
  root=$work/root
  rm -rf "$root"
  mkdir -p "$work"
  debootstrap --variant=minbase --include=ca-certificates,gcc,libc6-dev bookworm "$root" >"$work/debootstrap.log" 2>&1 ||
    die "debootstrap failed, see $work/debootstrap.log"
  rm -rf "${root:?}"/{dev,var/cache/apt,var/lib/apt/lists,var/log}/* "$root"/usr/share/{doc,info,locale,man}
  mkdir -p "$root/usr/local/cargo/bin" "$root/usr/local/cargo/lib/rustlib"
  # rustc finds its libraries in the lib directory beside its own.
  cp -a "$sysroot"/bin/{cargo,rustc} "$root/usr/local/cargo/bin/"
  cp -a "$sysroot"/lib/*.so* "$root/usr/local/cargo/lib/"
  cp -a "$sysroot/lib/rustlib/$arch" "$root/usr/local/cargo/lib/rustlib/"
  tar -C "$root" -c . | docker import \
    --change 'ENV CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    --change 'CMD ["bash"]' - "$base" >/dev/null
  rm -rf "$root"
}

# The base image and on it the crates of Cargo.lock; the label says which.
make_stand_in() {
  local image=$1 stamp=$2 base context
  base=lamplight-rust-base:$(rustc --version | cut -d' ' -f2)
  context=$work/context
  if ! docker image inspect "$base" >/dev/null 2>&1; then
    echo "making $base (a minute or two)"
    make_base "$base"
  fi
  echo "making a stand-in for $image with the crates of Cargo.lock"
  rm -rf "$context"
  mkdir -p "$context"
  cargo vendor --locked --versioned-dirs "$context/vendor" 2>"$work/vendor.log" |
    sed 's|^directory = .*|directory = "/usr/local/cargo/vendor"|' >"$context/config.toml" ||
    die "cargo vendor failed, see $work/vendor.log"
  printf '\n[net]\noffline = true\n' >>"$context/config.toml"
  cat >"$context/Dockerfile" <<END
FROM $base
COPY config.toml /usr/local/cargo/
COPY vendor /usr/local/cargo/vendor
LABEL $label="$stamp"
END
  docker build --quiet --tag "$image" "$context" >"$work/build.log" 2>&1 || die "docker build failed, see $work/build.log"
  rm -rf "$context"
}

docker info >/dev/null 2>&1 || die "no Docker engine answers: start it, or install docker.io"
image=$(sed -n 's/^FROM \([^ ]*\) AS build$/\1/p' Dockerfile)
case $image in
  rust:*) ;;
  *) die "the Dockerfile's build stage starts from '$image': no stand-in is known for it" ;;
esac

stamp=$({ rustc --version && cat Cargo.lock; } | sha256sum | cut -c1-16)
if found=$(docker image inspect --format "{{index .Config.Labels \"$label\"}}" "$image" 2>/dev/null); then
  case $found in
    "$stamp") echo "$image: stand-in, up to date" ;;
    "") echo "$image: here" ;;
    *) make_stand_in "$image" "$stamp" ;;
  esac
elif timeout 300 docker pull --quiet "$image" 2>/dev/null; then
  echo "$image: pulled"
else
  make_stand_in "$image" "$stamp"
fi
docker image inspect --format '{{.RepoTags}}: {{.Size}} bytes' "$image"
