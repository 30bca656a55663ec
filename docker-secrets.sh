#!/bin/sh
# Makes the secrets of docker-compose.secure.yml, each of 32 random bytes, in ./secrets or the directory that is named:
#
#   pool-secret                 what the nodes prove to each other
#   tokens.json                 the tokens that they take, as hashes
#   admin-token, health-token   the tokens themselves: for you, and for the health checks of the containers
set -eu
umask 077

dir=${1:-${LAMPLIGHT_SECRETS:-./secrets}}
if [ -e "$dir" ]; then
  echo "docker-secrets.sh: $dir is there already: remove it for new secrets, or name another directory" >&2
  exit 1
fi

secret() { head -c 32 /dev/urandom | base64; }
hash() { printf %s "$(cat "$1")" | sha256sum | cut -d' ' -f1; }

mkdir -p "$dir"
secret >"$dir/pool-secret"
secret >"$dir/admin-token"
secret >"$dir/health-token"
cat >"$dir/tokens.json" <<END
{"tokens": [
  {"name": "admin", "role": "admin", "sha256": "$(hash "$dir/admin-token")"},
  {"name": "health", "role": "read", "collections": ["nothing"], "sha256": "$(hash "$dir/health-token")"}
]}
END

# In the containers runs the user 65532. Whoever is not root cannot give it the files: then anyone who comes so far may read
# them, and the directory keeps the others of this machine out.
for name in pool-secret tokens.json health-token; do
  chown 65532:65532 "$dir/$name" 2>/dev/null || chmod 0644 "$dir/$name"
done
echo "made $dir. A client shows LAMPLIGHT_TOKEN_FILE=$dir/admin-token"
