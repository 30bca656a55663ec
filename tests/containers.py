#!/usr/bin/env python3
"""The secured cluster of containers (docker-compose.secure.yml) on the real engine, under load all the while: strangers come,
a node is cut off, one is killed, all are restarted in turn. Nothing that was acknowledged is lost, and all nodes come to the same.

The image `lamplight` is the one that tests/compose.sh has built. Each node also has a network of its own, so that its published
port still answers while it is cut off from the others.
"""

import datetime
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NODES = ["a", "b", "c"]
PROJECT = f"lamplight-secured-{os.getpid()}"
IMAGE_BYTES_MAX = 30_000_000
# How long anything may take that must come about, on a machine that is slow.
PATIENCE_S = 120
# Documents that are acknowledged between two troubles.
BETWEEN = 60
ADMIN = """
services:
  a: {networks: [admin-a, default]}
  b: {networks: [admin-b, default]}
  c: {networks: [admin-c, default]}
networks:
  admin-a: {}
  admin-b: {}
  admin-c: {}
"""

passed = failed = 0


def check(text, good):
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    print(f"{'ok   ' if good else 'FAIL '} {text}", flush=True)


def within(condition):
    """Whether the condition comes about; what it says last."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            if found := condition():
                return found
        except (OSError, http.client.HTTPException, ValueError, KeyError, subprocess.CalledProcessError):
            pass
        if time.monotonic() > end:
            return False
        time.sleep(0.1)


def docker(*args, errors=True):
    done = subprocess.run(["docker", *args], capture_output=True, text=True, check=errors)
    return done.stdout.strip() if errors else (done.stdout + done.stderr).strip()


def free_ports():
    """The first three ports in a row that are free."""
    for first in (7181, 17181, 27181, 37181, 47181):
        with_each = [socket.socket() for _ in NODES]
        try:
            for index, one in enumerate(with_each):
                one.bind(("127.0.0.1", first + index))
            return {name: first + index for index, name in enumerate(NODES)}
        except OSError:
            continue
        finally:
            for one in with_each:
                one.close()
    raise SystemExit("containers.py: no three ports are free")


class Cluster:
    def __init__(self, scratch):
        self.ports = free_ports()
        self.secrets = os.path.join(scratch, "secrets")
        subprocess.run([os.path.join(ROOT, "docker-secrets.sh"), self.secrets], check=True)
        with open(os.path.join(scratch, "admin.yml"), "w") as file:
            file.write(ADMIN)
        tool = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
        files = ["docker-compose.yml", "docker-compose.secure.yml", os.path.join(scratch, "admin.yml")]
        self.tool = [*tool, "--project-name", PROJECT, *(part for file in files for part in ("--file", file))]
        self.environment = {**os.environ, "LAMPLIGHT_SECRETS": self.secrets}
        self.environment.update({f"LAMPLIGHT_PORT_{name.upper()}": str(port) for name, port in self.ports.items()})
        self.ids = {}

    def compose(self, *args):
        done = subprocess.run([*self.tool, *args], cwd=ROOT, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"containers.py: compose {args[0]} failed\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def up(self):
        self.compose("up", "--detach", "--no-build")
        self.ids = {name: self.compose("ps", "--quiet", name) for name in NODES}

    def secret(self, name):
        with open(os.path.join(self.secrets, name)) as file:
            return file.read().strip()

    def ask(self, node, method, path, body=None, token=None):
        """Status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[node], timeout=10)
        headers = {"content-type": "application/json"} if body is not None else {}
        if token:
            headers["authorization"] = f"Bearer {token}"
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def pool(self, node):
        status, body = self.ask(node, "GET", "/v1/pool", token=self.secret("admin-token"))
        if status != 200:
            raise ValueError(status)
        told = json.loads(body)
        if told["pool"] is None:
            raise ValueError("it looks for a pool")
        return told

    def ready(self, node):
        return self.ask(node, "GET", "/readyz", token=self.secret("admin-token"))[0] == 200

    def linked(self):
        """All know three members, and are linked to the two others."""
        pools = [self.pool(node) for node in NODES]
        links = [[member["link"] for member in pool["members"]] for pool in pools]
        return len({pool["pool"]["id"] for pool in pools}) == 1 and all(
            len(link) == 3 and link.count("linked") == 2 for link in links
        )

    def documents(self, node):
        """Of each document its version, value and status."""
        found, after = {}, ""
        while after is not None:
            status, body = self.ask(node, "GET", f"/v1/docs/load?limit=1000{after}", token=self.secret("admin-token"))
            if status != 200:
                raise ValueError(status)
            page = json.loads(body)
            found.update({doc["id"]: (doc["version"], doc["value"], doc["status"]) for doc in page["docs"]})
            after = f"&after={page['next']}" if page["next"] else None
        return found


class Load:
    """A writer for each node, which goes to the next one where its own does not answer."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.acknowledged = {}
        self.taken_by = dict.fromkeys(NODES, 0)
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.writers = [threading.Thread(target=self.write, args=(index,), daemon=True) for index in range(len(NODES))]
        for writer in self.writers:
            writer.start()

    def write(self, index):
        token, count, node = self.cluster.secret("admin-token"), 0, index
        while not self.stopped.is_set():
            key, value = f"{NODES[index]}-{count}", {"n": count}
            name = NODES[node]
            try:
                status, _ = self.cluster.ask(name, "PUT", f"/v1/docs/load/{key}", json.dumps(value), token)
            except (OSError, http.client.HTTPException):
                status = 0
            if status in (200, 201):
                with self.lock:
                    self.acknowledged[key] = value
                    self.taken_by[name] += 1
                count, node = count + 1, index
            else:
                # Not acknowledged: the next node gets the same.
                node = (node + 1) % len(NODES)
                self.stopped.wait(0.02)

    def more(self, nodes):
        """Whether these nodes go on taking writes."""
        with self.lock:
            before = dict(self.taken_by)
        return within(lambda: all(self.taken_by[node] >= before[node] + BETWEEN for node in nodes))

    def stop(self):
        self.stopped.set()
        for writer in self.writers:
            writer.join()


def image():
    size = int(docker("image", "inspect", "--format", "{{.Size}}", "lamplight"))
    print(f"the image has {size / 1e6:.1f} MB")
    check(f"the image is smaller than {IMAGE_BYTES_MAX / 1e6:.0f} MB", size < IMAGE_BYTES_MAX)


def start_time():
    """From the start of the process, as the engine knows it, to the line in the log that says that it is ready."""
    times = []
    for _ in range(5):
        container = docker("run", "--detach", "lamplight", "serve", "--memory", "--insecure")
        try:
            line = within(lambda: next((l for l in docker("logs", "--timestamps", container, errors=False).splitlines() if "ready:" in l), None))
            started = docker("inspect", "--format", "{{.State.StartedAt}}", container)
            parse = lambda text: datetime.datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00")
            times.append((parse(line.split()[0]) - parse(started)).total_seconds() * 1000)
        finally:
            docker("rm", "--force", container)
    print(f"a node is ready {sorted(times)[2]:.0f} ms after its process is started (median of {len(times)}; all: {', '.join(f'{t:.0f}' for t in times)})")


def closed(cluster):
    reader = cluster.secret("health-token")
    for node in NODES:
        state = lambda node=node: docker("inspect", "--format", "{{.State.Health.Status}}", cluster.ids[node]) == "healthy"
        check(f"{node} is healthy by the image's own check, with a token from a secret", within(state))
    check("without a token /livez answers", cluster.ask("a", "GET", "/livez")[0] == 200)
    for path in ("/v1/pool", "/v1/docs/load", "/readyz", "/metrics", "/v1/backup"):
        check(f"without a token {path} does not", cluster.ask("a", "GET", path)[0] == 401)
    check("the token of the health check writes nothing", cluster.ask("a", "PUT", "/v1/docs/nothing/x", "1", reader)[0] == 403)
    check("and reads no documents", cluster.ask("a", "GET", "/v1/docs/load", token=reader)[0] == 403)
    secrets = [cluster.secret(name) for name in ("pool-secret", "admin-token", "health-token")]
    told = docker("inspect", *cluster.ids.values()) + "".join(docker("logs", id, errors=False) for id in cluster.ids.values())
    check("no secret stands in the containers' description or log", not any(secret in told for secret in secrets))


def stranger(cluster, title, *secret):
    """A node outside that joins through a, without the secret or with another."""
    pool = cluster.pool("a")["pool"]["id"]
    network = f"{PROJECT}_default"
    container = docker(
        "run", "--detach", "--network", network, *secret, "lamplight", "serve", "--memory", "--insecure", "--join", "http://a:7171"
    )
    try:
        def refused():
            said = json.loads(docker("exec", container, "lamplight", "status", "--json"))
            return [problem for problem in said["problems"] if "secret" in problem["detail"]]

        check(f"a node {title} is told that it needs the secret", within(refused))
        said = docker("exec", container, "lamplight", "status", "--json") + docker("logs", container, errors=False)
        check("and learns neither the pool nor its members", pool not in said and not any(m["id"] in said for m in cluster.pool("a")["members"]))
        check("and is no member", len(cluster.pool("a")["members"]) == 3)
    finally:
        docker("rm", "--force", container)


def troubles(cluster, load):
    network = f"{PROJECT}_default"
    check("all nodes take writes", load.more(NODES))
    docker("network", "disconnect", network, cluster.ids["c"])
    check("all take writes while c is cut off", load.more(NODES))
    lacks = lambda: set(cluster.documents("a")) - set(cluster.documents("c"))
    check("c does not hear of the others then", within(lacks))
    docker("kill", cluster.ids["b"])
    check("a and c take writes while b is dead", load.more(["a", "c"]))
    docker("network", "connect", "--alias", "c", network, cluster.ids["c"])
    docker("start", cluster.ids["b"])
    check("b comes back, and all are linked", within(cluster.linked))
    for node in NODES:
        docker("restart", "--time", "8", cluster.ids[node])
        check(f"{node} is ready again after a restart", within(lambda node=node: cluster.ready(node)))
        check("and takes writes", load.more([node]))


def converged(cluster, load):
    def same():
        held = [cluster.documents(node) for node in NODES]
        final = all(status == "final" for _, _, status in held[0].values())
        return held[0] if held[0] == held[1] == held[2] and final else None

    held = within(same)
    check("all three list the same documents with the same versions, and all is final", held)
    lost = [key for key, value in load.acknowledged.items() if (held or {}).get(key, (None, None))[1] != value]
    print(f"{len(load.acknowledged)} writes acknowledged ({load.taken_by}), {len(held or {})} documents held")
    check("nothing that was acknowledged is lost", held and not lost)
    check("they are the pool of three that they were", within(cluster.linked))


def main():
    scratch = tempfile.mkdtemp(prefix="lamplight-containers-")
    cluster = None
    try:
        image()
        start_time()
        cluster = Cluster(scratch)
        begin = time.monotonic()
        cluster.up()
        check("three nodes with secrets are one pool", within(cluster.linked))
        print(f"linked {(time.monotonic() - begin) * 1000:.0f} ms after the call to start them")
        closed(cluster)
        load = Load(cluster)
        stranger(cluster, "without the secret")
        stranger(cluster, "with another secret", "--env", f"LAMPLIGHT_POOL_SECRET={uuid.uuid4()}")
        troubles(cluster, load)
        load.stop()
        converged(cluster, load)
    finally:
        if cluster:
            if failed or sys.exc_info()[0]:
                subprocess.run([*cluster.tool, "logs", "--no-color", "--tail=40"], cwd=ROOT, env=cluster.environment)
            subprocess.run([*cluster.tool, "down", "--volumes", "--timeout", "5"], cwd=ROOT, env=cluster.environment, capture_output=True)
        shutil.rmtree(scratch, ignore_errors=True)
        print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
