#!/usr/bin/env bash
# Runs the real docker-compose.yml: three nodes converge, one is cut off and comes back, one is killed and comes back, one
# is restarted, and all three are taken down and come back from their volumes. Each node also gets a network of its own, so that its published port still answers while it is cut off from the others.
set -euo pipefail
cd "$(dirname "$0")/.."

project=lamplight-test-$$
scratch=$(mktemp -d)
passed=0
failed=0

if docker-compose version >/dev/null 2>&1; then
  compose=(docker-compose)
else
  compose=(docker compose)
fi
compose+=(--project-name "$project" --file docker-compose.yml --file "$scratch/admin.yml")

cleanup() {
  local status=$?
  trap - EXIT INT TERM
  if [ "$status" != 0 ]; then
    [ "$failed" -gt 0 ] || failed=1
    "${compose[@]}" logs --no-color --tail=40 2>/dev/null || true
  fi
  "${compose[@]}" down --volumes --timeout 5 >/dev/null 2>&1 || true
  rm -rf "$scratch"
  echo "$passed passed, $failed failed"
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# check TEXT COMMAND...: counts the command as passed or failed.
check() {
  local text=$1
  shift
  if "$@"; then
    passed=$((passed + 1))
    echo "ok    $text"
  else
    failed=$((failed + 1))
    echo "FAIL  $text"
  fi
}

# within SECONDS COMMAND...: polls until the command succeeds.
within() {
  local end=$((SECONDS + $1))
  shift
  until "$@" 2>/dev/null; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.1
  done
}

now_ms() { date +%s%3N; }

free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# The first of these ports, or of others a round number higher, at which three in a row are free.
first_port() {
  local port
  for port in 7171 17171 27171 37171 47171; do
    if free "$port" && free $((port + 1)) && free $((port + 2)); then
      echo "$port"
      return
    fi
  done
  echo "compose.sh: no three ports are free" >&2
  return 1
}

url() { echo "http://127.0.0.1:${port[$1]}"; }

# fetch NODE PATH
fetch() { curl --silent --show-error --fail --max-time 5 "$(url "$1")$2"; }

# put NODE ID FROM: writes notes/ID.
put() {
  curl --silent --show-error --fail --max-time 5 --output "$scratch/answer" --request PUT \
    --header 'content-type: application/json' --data "{\"from\":\"$3\"}" "$(url "$1")/v1/docs/notes/$2"
}

# put_many NODE PREFIX COUNT
put_many() {
  local i
  for ((i = 1; i <= $3; i++)); do
    put "$1" "$2-$i" "$1" || return 1
  done
}

# Each document of a node as a line `id version`.
list() {
  fetch "$1" '/v1/docs/notes?limit=1000' |
    python3 -c 'import json, sys
for doc in json.load(sys.stdin)["docs"]: print(doc["id"], doc["version"])' | sort
}

ready() { fetch "$1" /readyz >"$scratch/ready"; }

all_ready() { ready a && ready b && ready c; }

container() { "${compose[@]}" ps --quiet "$1" | head -n 1; }

healthy() { [ "$(docker inspect --format '{{.State.Health.Status}}' "${id[$1]}")" = healthy ]; }

stopped() { [ "$(docker inspect --format '{{.State.Running}}' "${id[$1]}")" = false ]; }

# pool_of NODE: the pool's id, the number of members, and how many of them it is linked to.
pool_of() {
  fetch "$1" /v1/pool | python3 -c 'import json, sys
pool = json.load(sys.stdin)
members = pool["members"]
print(pool["pool"]["id"], len(members), sum(m["link"] == "linked" for m in members))'
}

# Nobody has come back under a new id: then there would be a fourth member.
one_pool() {
  local a b c
  a=$(pool_of a) && b=$(pool_of b) && c=$(pool_of c) || return 1
  [ "$a" = "$b" ] && [ "$b" = "$c" ] && [ "${a#* }" = "3 2" ]
}

# same_everywhere COUNT: all three list the same COUNT documents with the same versions.
same_everywhere() {
  list a >"$scratch/a" && list b >"$scratch/b" && list c >"$scratch/c" || return 1
  cmp -s "$scratch/a" "$scratch/b" && cmp -s "$scratch/b" "$scratch/c" && [ "$(wc -l <"$scratch/a")" = "$1" ]
}

same_answer() {
  local a b c
  a=$(fetch a "$1") && b=$(fetch b "$1") && c=$(fetch c "$1") || return 1
  [ "$a" = "$b" ] && [ "$b" = "$c" ]
}

holds() { fetch "$1" "/v1/docs/notes/$2" >"$scratch/doc"; }

# lacks NODE ID: the node answers, and says that it has no such document.
lacks() {
  [ "$(curl --silent --max-time 5 --output "$scratch/doc" --write-out '%{http_code}' "$(url "$1")/v1/docs/notes/$2")" = 404 ]
}

stops_cleanly() {
  docker stop --time 8 "${id[$1]}" >"$scratch/stop" && [ "$(docker inspect --format '{{.State.ExitCode}}' "${id[$1]}")" = 0 ]
}

tests/images.sh

first=$(first_port)
declare -A port=([a]=$first [b]=$((first + 1)) [c]=$((first + 2)))
export LAMPLIGHT_PORT_A=${port[a]} LAMPLIGHT_PORT_B=${port[b]} LAMPLIGHT_PORT_C=${port[c]}
cat >"$scratch/admin.yml" <<'END'
services:
  a: {networks: [admin-a, default]}
  b: {networks: [admin-b, default]}
  c: {networks: [admin-c, default]}
networks:
  admin-a: {}
  admin-b: {}
  admin-c: {}
END

echo "building the image"
begin=$SECONDS
if ! "${compose[@]}" build >"$scratch/build.log" 2>&1; then
  tail -n 40 "$scratch/build.log"
  echo "compose.sh: the image does not build" >&2
  exit 1
fi
echo "built in $((SECONDS - begin)) s, image size $(docker image inspect --format '{{.Size}}' lamplight) bytes"
check "the image runs as a user other than root" [ "$(docker image inspect --format '{{.Config.User}}' lamplight)" = 65532:65532 ]

begin=$(now_ms)
if ! "${compose[@]}" up --detach --no-build >"$scratch/up.log" 2>&1; then
  cat "$scratch/up.log"
  echo "compose.sh: the containers do not start" >&2
  exit 1
fi
declare -A id=([a]=$(container a) [b]=$(container b) [c]=$(container c))
check "three nodes are ready" within 60 all_ready
echo "three nodes ready $(($(now_ms) - begin)) ms after the call to start them"
check "they are one pool, each linked to the two others" within 60 one_pool
for node in a b c; do
  check "$node is healthy by the image's own check" within 60 healthy "$node"
done

check "a takes 20 documents" put_many a first 20
check "b and c list them with the same versions" within 30 same_everywhere 20

docker network disconnect "${project}_default" "${id[c]}"
check "a takes 20 documents while c is cut off" put_many a left 20
check "c takes 20 documents while it is cut off" put_many c right 20
check "a and c both write one document" put a both a
check "c writes it as well" put c both c
check "b has heard of what a wrote" within 10 holds b left-20
check "c has not" lacks c left-20
check "a has not heard of what c wrote" lacks a right-20

docker network connect --alias c "${project}_default" "${id[c]}"
begin=$(now_ms)
check "all three list the same documents with the same versions" within 60 same_everywhere 61
echo "waited $(($(now_ms) - begin)) ms for that after the network was joined again"
check "they show the same winner of the document both wrote" same_answer /v1/docs/notes/both

docker kill "${id[b]}" >"$scratch/kill"
check "b is killed" within 10 stopped b
check "a takes 20 documents while b is dead" put_many a later 20
begin=$(now_ms)
docker start "${id[b]}" >"$scratch/start"
check "b is ready again" within 60 ready b
echo "one node ready $(($(now_ms) - begin)) ms after docker start"
check "b has everything" within 60 same_everywhere 81

"${compose[@]}" restart --timeout 8 c >"$scratch/restart" 2>&1
check "c is ready after docker compose restart" within 60 ready c
check "a stops on SIGTERM with exit code 0" stops_cleanly a

"${compose[@]}" down --timeout 8 >"$scratch/down" 2>&1
check "down leaves no container" [ -z "$("${compose[@]}" ps --all --quiet)" ]
begin=$(now_ms)
"${compose[@]}" up --detach --no-build >"$scratch/up.log" 2>&1 || cat "$scratch/up.log"
check "all three are ready after down and up" within 60 all_ready
echo "three nodes ready $(($(now_ms) - begin)) ms after the call to start them again"
check "they hold what they held" within 60 same_everywhere 81
check "they are the pool of three that they were" within 60 one_pool
check "c takes 20 documents" put_many c again 20
check "which all three list" within 30 same_everywhere 101

[ "$failed" = 0 ]
