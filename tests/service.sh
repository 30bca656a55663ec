#!/usr/bin/env bash
# The Debian package installed, and its unit under systemd, both in a container: started, killed, upgraded, given a wrong file,
# removed and purged. The image is made of Debian's packages, once.
set -euo pipefail
cd "$(dirname "$0")/.."
program=${1:-target/debug/lamplight}
image=lamplight-systemd
name=lamplight-service-$$

die() {
  echo "service.sh: $*" >&2
  exit 1
}

work=$(mktemp -d)
finish() {
  docker rm --force "$name" >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap finish EXIT

docker info >/dev/null 2>&1 || die "no Docker engine answers: start it, or install docker.io"
if ! docker image inspect "$image" >/dev/null 2>&1; then
  [ "$(id -u)" = 0 ] || die "making the image needs root: run this once with sudo -E"
  echo "making $image (half a minute)"
  debootstrap --variant=minbase --include=systemd-sysv bookworm "$work/root" >"$work/log" 2>&1 || die "debootstrap failed: $(tail -n 3 "$work/log")"
  tar -C "$work/root" -c . | docker import --change 'CMD ["/sbin/init"]' - "$image" >/dev/null
fi

# As much of the system as systemd must have of its own.
rights=(--privileged)
if [ -d /sys/fs/cgroup/systemd ]; then
  rights=(--cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined
    --volume /sys/fs/cgroup/systemd:/sys/fs/cgroup/systemd)
fi
docker run --detach --name "$name" --network none "${rights[@]}" --cgroupns=private --tmpfs /run --tmpfs /run/lock "$image" >/dev/null
package=$(packaging/deb.sh "$program" "$work")
docker cp --quiet "$package" "$name:/root/lamplight.deb"

docker exec --interactive "$name" bash -euo pipefail -s <<'END'
fail() {
  echo "service.sh: $*" >&2
  journalctl --unit lamplight --no-pager --lines 20 >&2
  exit 1
}
# within WHAT COMMAND...: until the command succeeds.
within() {
  local what=$1 end=$((SECONDS + 60))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || fail "not within a minute: $what"
    sleep 0.1
  done
  echo "ok    $what"
}
property() { systemctl show --property "$1" --value lamplight; }
holds() { [ "$(lamplight get a b)" = "$1" ]; }
is() { [ "$(property "$1")" = "$2" ]; }

within "systemd is up" systemctl is-system-running
dpkg --install /root/lamplight.deb >/dev/null 2>&1
is ActiveState inactive || fail "it is started unasked"
systemctl enable --quiet --now lamplight
within "the node takes a write" lamplight put a b 1
[ "$(stat -c '%U %a' /var/lib/lamplight)" = "lamplight 700" ] || fail "others may read the data"
[ "$(stat -c '%U:%G %a' /etc/lamplight/lamplight.toml)" = "root:lamplight 640" ] || fail "others may read the file"
[ "$(stat -c %U "/proc/$(property MainPID)")" = lamplight ] || fail "it runs as somebody else"

first=$(property MainPID)
kill -KILL "$first"
within "a killed node is started again, with its data" holds 1
is NRestarts 1 || fail "it was not killed"

second=$(property MainPID)
dpkg --install /root/lamplight.deb >/dev/null 2>&1
within "an upgraded one goes on with its data" holds 1
[ "$(property MainPID)" != "$second" ] || fail "the upgrade left the old program running"

systemctl stop lamplight
is Result success && is ExecMainStatus 0 || fail "it does not stop well"
echo 'nonsense = 1' >>/etc/lamplight/lamplight.toml
systemctl start lamplight
within "a wrong file is not tried over and over" is Result exit-code
is NRestarts 0 && is ExecMainStatus 2 || fail "it was started $(property NRestarts) times again"
log=$(journalctl --unit lamplight --no-pager)
grep -q 'nonsense: there is no such key' <<<"$log" || fail "the log does not say which key is wrong"
sed -i '/nonsense/d' /etc/lamplight/lamplight.toml
systemctl restart lamplight
within "a mended one is taken" holds 1

dpkg --remove lamplight >/dev/null 2>&1
systemctl is-active --quiet lamplight && fail "it runs without its program"
[ -e /var/lib/lamplight/lock ] || fail "the data goes with the program"
dpkg --install /root/lamplight.deb >/dev/null 2>&1
systemctl start lamplight
within "what is installed again has its data" holds 1
dpkg --purge lamplight >/dev/null 2>&1
[ ! -e /var/lib/lamplight ] && [ ! -e /etc/lamplight ] || fail "something is left after a purge"
echo "ok    nothing is left after a purge"
END
