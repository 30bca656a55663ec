#!/usr/bin/env python3
"""Real input: this Debian release's package index, loaded through one node while two others edit and delete.

Three processes. Node A takes about 60,000 documents at the highest rate that the API sustains (`lamplight import`);
meanwhile B and C merge into, patch and delete some of the same documents, and B's and C's links are cut for half of the
time. Afterwards all three must list the same documents with the same versions. Prints its figures.

    tests/packages.py [path of the program, target/release/lamplight]
"""

import http.client
import json
import random
import subprocess
import sys
import tempfile
import threading
import time

PATIENCE_S = 120
CUT_S = 0.5


class Node:
    """A process of the program, and requests to it."""

    def __init__(self, program, name, join=None):
        command = [program, "serve", "--memory", "--listen", "127.0.0.1:0", "--name", name]
        command += ["--join", join] if join else []
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.url = None
        for line in self.process.stderr:
            if "http://127.0.0.1:" in line:
                port = line.split("http://127.0.0.1:", 1)[1]
                self.port = int("".join(c for c in port[:5] if c.isdigit()))
                self.url = f"http://127.0.0.1:{self.port}"
                break
        threading.Thread(target=lambda: [None for _ in self.process.stderr], daemon=True).start()

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def call(self, method, path, body=None, media="application/json", headers=None, connection=None):
        connection = connection or self.connect()
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": media, **(headers or {})})
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, dict(answer.getheaders()), json.loads(text) if text else None

    def cut(self, cut):
        assert self.call("POST", "/v1/pool/links", {"cut": cut})[0] == 200

    def listing(self, collection):
        found, after = {}, ""
        while True:
            status, _, page = self.call("GET", f"/v1/docs/{collection}?limit=1000{after}")
            assert status == 200, page
            found.update((doc["id"], doc["version"]) for doc in page["docs"])
            if page["next"] is None:
                return found
            after = "&after=" + page["next"]


def packages():
    """The package index as documents: one a package, the fields as they are, the numbers as numbers."""
    text = subprocess.run(["apt-cache", "dumpavail"], check=True, capture_output=True, text=True).stdout
    for paragraph in text.split("\n\n"):
        fields, last = {}, None
        for line in paragraph.splitlines():
            if line[:1] in " \t" and last:
                fields[last] += "\n" + line.strip()
            elif ": " in line or line.endswith(":"):
                last, _, value = line.partition(":")
                fields[last] = value.strip()
        if "Package" in fields:
            for name in ("Size", "Installed-Size"):
                if name in fields:
                    fields[name] = int(fields[name])
            yield {"id": fields["Package"], "value": fields}


def edit(node, ids, seed, done, counts):
    """Edits and deletes random documents through one node until the load is done."""
    rng, connection = random.Random(seed), node.connect()
    while not done.is_set():
        path = "/v1/docs/packages/" + rng.choice(ids).replace("+", "%2B")
        kind = rng.randrange(4)
        if kind == 0:
            status, _, _ = node.call("DELETE", path, connection=connection)
        elif kind == 1:
            patch = [{"op": "test", "path": "/Package", "value": path.rsplit("/", 1)[1]}, {"op": "remove", "path": "/Size"}]
            status, _, _ = node.call("PATCH", path, patch, "application/json-patch+json", connection=connection)
        else:
            merge = {"edited": {"by": seed, "n": rng.randrange(1000)}, "Description": None}
            status, _, _ = node.call("PATCH", path, merge, "application/merge-patch+json", connection=connection)
        # 404: not loaded here yet, or deleted, where a merge creates it (201); 409: the patch's test does not hold. Anything
        # else is a defect.
        assert status in (200, 201, 404, 409), status
        counts[status] = counts.get(status, 0) + 1


def flicker(nodes, done, counts):
    """Cuts the links for half of the time."""
    while not done.is_set():
        for cut in (True, False):
            for node in nodes:
                node.cut(cut)
            counts["cuts"] = counts.get("cuts", 0) + cut
            time.sleep(CUT_S)


def converge(nodes):
    """Waits until each node holds what each other holds, by their sessions; returns the seconds it took."""
    began = time.monotonic()
    sessions = [node.call("GET", "/v1/pool")[1]["lamplight-session"] for node in nodes]
    for node in nodes:
        for session in sessions:
            while node.call("GET", "/v1/collections", headers={"Lamplight-Session": session})[0] != 200:
                assert time.monotonic() < began + PATIENCE_S, f"{node.url} does not get what another node holds"
    return time.monotonic() - began


def run(program, nodes):
    documents = list(packages())
    assert len(documents) > 10_000, f"the package index holds only {len(documents)} packages: run apt-get update first"
    a, b, c = nodes
    for node in nodes:
        while len((node.call("GET", "/v1/pool")[2] or {}).get("members", [])) < 3 or node.call("GET", "/readyz")[0] != 200:
            time.sleep(0.05)
    ids = [document["id"] for document in documents]
    done, counts = threading.Event(), [{}, {}, {}]
    workers = [
        threading.Thread(target=edit, args=(b, ids, 1, done, counts[0])),
        threading.Thread(target=edit, args=(c, ids, 2, done, counts[1])),
        threading.Thread(target=flicker, args=((b, c), done, counts[2])),
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".ndjson") as file:
        size = sum(file.write(json.dumps(document) + "\n") for document in documents)
        file.flush()
        for worker in workers:
            worker.start()
        began = time.monotonic()
        subprocess.run([program, "import", "packages", file.name, "--url", a.url], check=True, stdout=subprocess.DEVNULL)
        loaded = time.monotonic() - began
        # The partition goes on for a while after the load, so that there is something to heal.
        time.sleep(2 * CUT_S)
        done.set()
    for worker in workers:
        worker.join()
    for node in (b, c):
        node.cut(False)
    seconds = converge(nodes)
    listings = [node.listing("packages") for node in nodes]
    assert listings[0] == listings[1] == listings[2], "the nodes list different documents"
    assert 0 < len(listings[0]) < len(set(ids)), "some documents were deleted, and not all"
    print(f"{len(documents)} packages, {size / 1e6:.0f} MB, loaded in {loaded:.1f} s: {len(documents) / loaded:.0f} documents/s")
    print(f"meanwhile B {counts[0]}, C {counts[1]} answers by status; links cut {counts[2].get('cuts', 0)} times")
    print(f"converged {seconds * 1000:.0f} ms after the last links were joined: {len(listings[0])} documents, the same on all nodes")


def main():
    program = sys.argv[1] if len(sys.argv) > 1 else "target/release/lamplight"
    nodes = []
    try:
        nodes.append(Node(program, "a"))
        nodes += [Node(program, name, nodes[0].url) for name in ("b", "c")]
        run(program, nodes)
    finally:
        for node in nodes:
            node.process.kill()
            node.process.wait()
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
