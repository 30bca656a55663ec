#!/usr/bin/env python3
"""The API as /openapi.json describes it, held against a node that asks for tokens.

    tests/openapi.py [--program PATH] [--seed N] [--examples N] [--only PATH]

Every example of the description must be as its schema says. Then schemathesis makes requests from the description, right
ones, wrong ones and chains of them, with all its checks on, and must find nothing. The seed is 1 unless another is said, and the same seed makes
the same requests.
"""

import argparse
import http.client
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading

import jsonschema_rs

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOKEN = "a-token-for-the-tests-of-the-description"


class Node:
    """A process of the program, which asks for tokens, and requests to it."""

    def __init__(self, program, folder):
        tokens = folder / "tokens.json"
        tokens.write_text(json.dumps({"tokens": [{"name": "tests", "role": "admin", "token": TOKEN}]}))
        command = [program, "serve", "--memory", "--listen", "127.0.0.1:0", "--tokens", str(tokens)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.url = None
        for line in self.process.stderr:
            if "http://127.0.0.1:" in line:
                self.port = int("".join(c for c in line.split("http://127.0.0.1:", 1)[1][:5] if c.isdigit()))
                self.url = f"http://127.0.0.1:{self.port}"
                break
        assert self.url, "the node does not start"
        threading.Thread(target=lambda: [None for _ in self.process.stderr], daemon=True).start()

    def call(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        text = None if body is None else json.dumps(body)
        media = {"Content-Type": "application/json"} if text else {}
        connection.request(method, path, text, {"Authorization": f"Bearer {TOKEN}", **media, **(headers or {})})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, answer.headers, text

    def get(self, path):
        status, headers, text = self.call("GET", path)
        assert status == 200, (path, status, text)
        return headers, json.loads(text)

    def end(self):
        self.process.terminate()
        assert self.process.wait(timeout=30) == 0, "the node did not end well"


def seed_documents(node):
    """Writes some documents, and returns what only a node can tell: cursors, a session, a time."""
    for id in ("lamp", "shopping", "wick"):
        status, *_ = node.call("PUT", f"/v1/docs/notes/{id}", {"id": id, "done": False})
        assert status in (200, 201), status
    # A page of collections goes on only where there is another.
    status, *_ = node.call("PUT", "/v1/docs/others/lamp", {"id": "lamp"})
    assert status in (200, 201), status
    _, collections = node.get("/v1/collections?limit=1")
    headers, page = node.get("/v1/docs/notes?limit=1")
    # One from amidst the documents there are would be good for the same collection only.
    _, changes = node.get("/v1/changes")
    _, final = node.get("/v1/changes?limit=1&view=final")
    return {
        "collection": "notes",
        "version": page["docs"][0]["version"],
        "page": page["next"],
        "collections_page": collections["next"],
        "cursor": changes["next"],
        "final_cursor": final["next"],
        "session": headers["Lamplight-Session"],
        "time": headers["Lamplight-Clock"],
    }


def check_serving(node):
    """It is given to who has no token, once."""
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=30)
    connection.request("GET", "/openapi.json")
    answer = connection.getresponse()
    text, tag = answer.read(), answer.headers["ETag"]
    assert answer.status == 200 and answer.headers["Content-Type"] == "application/json", answer.status
    connection.request("GET", "/openapi.json", headers={"If-None-Match": tag})
    again = connection.getresponse()
    assert (again.status, again.read(), again.headers["ETag"]) == (304, b"", tag), again.status
    return json.loads(text)


def check_examples(description):
    """Each example is as the schema beside it says; returns how many there are."""
    count = 0

    def check(schema, example, place):
        nonlocal count
        count += 1
        whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", "components": description["components"]}
        errors = [error.message for error in jsonschema_rs.Draft202012Validator({**whole, **schema}).iter_errors(example)]
        assert not errors, (place, errors)

    def walk(value, place):
        if isinstance(value, list):
            for index, item in enumerate(value):
                walk(item, f"{place}/{index}")
        elif isinstance(value, dict):
            if "schema" in value and "example" in value:
                check(value["schema"], value["example"], place)
            elif "example" in value and "content" not in value:
                check(value, value["example"], place)
            if isinstance(value.get("examples"), list):
                for example in value["examples"]:
                    check(value, example, place)
            for name, member in value.items():
                if name not in ("example", "examples"):
                    walk(member, f"{place}/{name}")

    walk(description["paths"], "paths")
    walk(description["components"], "components")
    return count


def check_negotiated(node, description):
    """What is given in several media types is given in each that is described, by what a client accepts."""
    status, *_ = node.call("PUT", "/v1/docs/notes/text", "A text.", {"Content-Type": "text/plain"})
    assert status in (200, 201), status
    asked = [
        ("/v1/changes", "/v1/changes", {"application/json", "text/event-stream"}),
        ("/v1/docs/{collection}/{id}", "/v1/docs/notes/text", {"application/json", "text/plain"}),
        ("/metrics", "/metrics", {"application/openmetrics-text", "text/plain"}),
    ]
    for path, target, media in asked:
        described = set(description["paths"][path]["get"]["responses"]["200"]["content"])
        assert described == media, (path, described)
        for kind in media:
            connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=30)
            connection.request("GET", target, headers={"Authorization": f"Bearer {TOKEN}", "Accept": kind})
            answer = connection.getresponse()
            given = answer.headers["Content-Type"].split(";")[0]
            assert (answer.status, given) == (200, kind), (target, kind, answer.status, given)
            # An event stream goes on and on.
            connection.close()


# Statuses with which a request may be answered that is right in itself. Each stands for what no schema can say, for it hangs on
# what there is at that moment.
POSITIVE = [
    "2xx",
    "304",
    # No such document, op or member; and a guard or a step that does not hold of what is there.
    "404",
    "409",
    # A condition on a version, which is seldom the one that is there; a delta without one.
    "412",
    "428",
    # A key that an earlier request had for something else.
    "422",
]


def configuration(folder):
    """The configuration of schemathesis, with a reason for each thing that is not as it comes."""
    statuses = json.dumps(POSITIVE)
    path = folder / "schemathesis.toml"
    path.write_text(
        f"""
request-timeout = 30.0
max-stream-events = 1

[cache]
enabled = false

[checks.positive_data_acceptance]
expected-statuses = {statuses}

# A WebSocket is opened by clients that speak it: what schemathesis sends is refused with 400, and told where to go.
[[operations]]
include-path = ["/v1/ws", "/v1/yjs/{{collection}}/{{id}}", "/v1/gossip"]
[operations.checks.positive_data_acceptance]
expected-statuses = ["400"]
"""
    )
    return path


def run(node, told, folder, seed, examples, only):
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(configuration(folder)), "run"]
    command += [f"{node.url}/openapi.json", "--checks", "all", "--mode", "all", "--seed", str(seed)]
    command += ["--max-examples", str(examples), "--header", f"Authorization: Bearer {TOKEN}", "--continue-on-failure"]
    # Chains of requests go over many paths.
    command += ["--include-path", only, "--phases", "examples,coverage,fuzzing"] if only else []
    hooks = {"SCHEMATHESIS_HOOKS": "openapi_hooks", "PYTHONPATH": str(ROOT / "tests")}
    environment = {**os.environ, **hooks, "LAMPLIGHT_TOLD": json.dumps(told)}
    assert subprocess.run(command, env=environment, cwd=folder).returncode == 0, f"schemathesis found something (seed {seed})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=str(ROOT / "target" / "debug" / "lamplight"))
    # The same requests in each run of the tests, so that a failure is of what was changed.
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--examples", type=int, default=20, help="requests of each kind an operation gets at the most")
    parser.add_argument("--only", help="only this path")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        node = Node(given.program, folder)
        try:
            description = check_serving(node)
            print(f"{check_examples(description)} examples are as their schemas say", flush=True)
            check_negotiated(node, description)
            run(node, seed_documents(node), folder, given.seed, given.examples, given.only)
        finally:
            node.end()


if __name__ == "__main__":
    main()
