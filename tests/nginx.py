#!/usr/bin/env python3
"""A node behind nginx: with nothing but `proxy_pass`, with `gzip on`, and below a path prefix.

    tests/nginx.py [--program PATH]

The configurations are those of docs/operations.md. REST, event streams, JSON lines, the WebSocket with the JavaScript client,
and the page must work through each as the docs say.
"""

import argparse
import gzip
import http.client
import json
import os
import pathlib
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
PATIENCE = 60
EXAMPLE_NODE = "127.0.0.1:7171"
# nginx as Debian installs it is not in every user's path.
NGINX = shutil.which("nginx") or "/usr/sbin/nginx"

CLIENT = """
import { connect } from "./static/lamplight.js";
const pool = connect(process.argv[1]);
const notes = pool.collection("client");
const seen = new Promise((resolve) => notes.watch((docs) => { if (docs.some(({ id, pending }) => id === "a/b" && !pending)) resolve(); }));
await notes.put("a/b", { n: 1, long: "x".repeat(1000) });
await seen;
const { version } = await notes.get("a/b");
await notes.put("a/b", { n: 2, long: "x".repeat(1000) }, { ifVersion: version });
const text = await pool.text("client", "a/text");
const settled = () => new Promise((resolve) => (text.onstate = (state) => state.link === "connected" && state.unsaved === 0 && resolve()));
await settled();
text.text.insert(0, "hi");
await settled();
console.log((await notes.get("a/b")).value.n);
text.close();
pool.close();
"""


def free_port():
    """A port that nobody has, below those that the system gives away by itself."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def documented(title):
    """The configuration under a heading of the docs."""
    text = (ROOT / "docs/operations.md").read_text()
    found = re.search(rf"{re.escape(title)}.*?```nginx\n(.*?)```", text, re.S)
    assert found, f"docs/operations.md has no configuration for {title!r}"
    return found[1]


class Node:
    """A process of the program."""

    def __init__(self, program):
        command = [program, "serve", "--memory", "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.port = None
        for line in self.process.stderr:
            if "http://127.0.0.1:" in line:
                self.port = int(re.search(r"http://127\.0\.0\.1:(\d+)", line)[1])
            if "ready: it takes reads and writes" in line:
                break
        assert self.port, "the node does not start"

    def end(self):
        self.process.terminate()
        self.process.wait(timeout=PATIENCE)


class Nginx:
    """A process of nginx with these lines in its `http` block."""

    def __init__(self, folder, lines, port):
        folder.mkdir()
        temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        text = (
            f"daemon off; pid {folder}/pid; error_log {folder}/errors; worker_processes 1; events {{}}\n"
            f"http {{ access_log off; {temporary}\n{lines}\n}}\n"
        )
        (folder / "conf").write_text(text)
        self.port = port
        self.process = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(folder / "conf"), "-e", str(folder / "errors")])
        end = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
                return
            except OSError:
                errors = folder / "errors"
                assert self.process.poll() is None, errors.read_text() if errors.exists() else "nginx does not start"
                assert time.monotonic() < end, "nginx does not listen"
                time.sleep(0.05)

    def end(self):
        self.process.terminate()
        self.process.wait(timeout=PATIENCE)


def call(port, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    media = {} if body is None else {"Content-Type": "application/json"}
    connection.request(method, path, body, {**media, **(headers or {})})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if answer.headers.get("Content-Encoding") == "gzip":
        content = gzip.decompress(content)
    return answer.status, answer.headers, content


def check_rest(port, prefix, compresses):
    """Documents, their conditions, and ids that proxies change."""
    accepts = {"Accept-Encoding": "gzip"}
    path = f"{prefix}/v1/docs/notes/a"
    long = json.dumps({"text": "x" * 2000})
    status, _, text = call(port, "PUT", path, long, accepts)
    assert status in (200, 201), (status, text)
    status, headers, text = call(port, "GET", path, headers=accepts)
    assert (status, json.loads(text)) == (200, json.loads(long))
    tag = headers["ETag"]
    assert tag.startswith('W/"' if compresses else '"'), tag
    assert call(port, "GET", path, headers={**accepts, "If-None-Match": tag})[0] == 304
    status, _, text = call(port, "PUT", path, '{"n":1}', {"If-Match": tag})
    assert status == 200, (status, text)
    status, _, text = call(port, "PUT", path, '{"n":2}', {"If-Match": tag})
    assert status == 412 and json.loads(text)["type"].endswith(":version-mismatch"), text
    strange = f"{prefix}/v1/docs/notes/_?id=..%2Fa%2F%2Fb%25"
    status, _, text = call(port, "PUT", strange, "7", accepts)
    assert status in (200, 201) and json.loads(text)["id"] == "../a//b%", text
    assert call(port, "GET", strange)[2] == b"7"
    assert call(port, "DELETE", strange)[0] == 200


def check_events(port, prefix):
    """An event comes while the stream goes on."""
    for query in ("", "?view=final"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "gzip"}
        connection.request("GET", f"{prefix}/v1/changes{query}", headers=headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.status
        # With `gzip_types *` nginx compresses event streams, too, and sends out each event all the same.
        inflated = zlib.decompressobj(wbits=31) if answer.headers.get("Content-Encoding") == "gzip" else None
        mark = f"event-{random.randrange(1 << 40)}"
        status, *_ = call(port, "PUT", f"{prefix}/v1/docs/notes/{mark}", "1")
        assert status == 201, status
        heard = b""
        while mark.encode() not in heard:
            more = answer.read1(4096)
            assert more, "the stream has ended"
            heard += inflated.decompress(more) if inflated else more
        connection.close()


def check_lines(port, prefix):
    """A line is answered before the next is sent."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        head = f"POST {prefix}/v1/docs/lines HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/jsonl\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        heard = b""
        for number in (1, 2):
            line = b'{"value":1}\n'
            connection.sendall(b"%x\r\n%s\r\n" % (len(line), line))
            while b'{"line":%d,"receipt"' % number not in heard:
                more = connection.recv(4096)
                assert more, heard
                heard += more
        connection.sendall(b"0\r\n\r\n")


def check_page(port, prefix):
    """The page and all that it is made of."""
    seen, todo = set(), [f"{prefix}/", f"{prefix}/docs"]
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        status, _, text = call(port, "GET", path)
        assert status == 200, (path, status)
        if path.endswith((".js", "/", "/docs")):
            text = text.decode()
            base = path.rsplit("/", 1)[0]
            links = re.findall(r'(?:src|href)="([^"#:]+)"|(?:from|import\() ?"(\./[^"]+)"', text if path.endswith(".js") else text.split("<body")[0])
            for link in (one or other for one, other in links):
                assert not link.startswith("/"), (path, link)
                todo.append(os.path.normpath(f"{base}/{link}"))
    assert any(path.endswith("/static/lamplight.js") or path.endswith("/static/connection.js") for path in seen), seen


def check_client(port, prefix):
    """The JavaScript client, which needs the WebSocket."""
    command = ["node", "--experimental-websocket", "--input-type=module", "-e", CLIENT, f"http://127.0.0.1:{port}{prefix}"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert ran.stdout == "2\n", (ran.stdout, ran.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", default=str(ROOT / "target/debug/lamplight"))
    node, proxies = Node(parser.parse_args().program), []
    try:
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            ours = f"127.0.0.1:{node.port}"

            def start(name, lines, port):
                proxies.append(Nginx(folder / name, lines, port))
                return port

            port = free_port()
            plain = start("plain", f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{ours}; }} }}", port)
            check_rest(plain, "", False)
            check_events(plain, "")
            check_page(plain, "")
            upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
            status, _, text = call(plain, "GET", "/v1/ws", headers=upgrade)
            assert status == 400 and b"Upgrade" in text, (status, text)
            print("with proxy_pass alone: REST, event streams and the page")

            port = free_port()
            whole = documented("### nginx").replace("listen 80;", f"listen 127.0.0.1:{port};").replace(EXAMPLE_NODE, ours)
            compressing = "gzip on; gzip_types *; gzip_proxied any; gzip_min_length 20;\n"
            start("gzip", compressing + whole, port)
            for check in (check_events, check_lines, check_page, check_client):
                check(port, "")
            check_rest(port, "", True)
            print("as documented, with gzip on: all of these, JSON lines, and the client with its WebSocket")

            port = free_port()
            below = documented("Below a path").replace(EXAMPLE_NODE, ours)
            upgrades = re.search(r"map .*?\n\}\n", whole, re.S)[0]
            start("below", f"{upgrades}server {{ listen 127.0.0.1:{port};\n{below}\n}}", port)
            check_rest(port, "/db", False)
            for check in (check_events, check_lines, check_page, check_client):
                check(port, "/db")
            print("below a path: the same")
    finally:
        for process in [*proxies, node]:
            process.end()


if __name__ == "__main__":
    main()
