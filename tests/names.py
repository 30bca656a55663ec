#!/usr/bin/env python3
"""Real nodes that look for each other by one name with as many addresses as there are nodes, as behind a headless service:
each node in a network of its own, and a small DNS server that publishes the name at once or late. As root, for network
namespaces are made; all that is made is removed again.

    tests/names.py [--rounds 1] [--program target/debug/lamplight]

A round is three and five nodes, started at once and in any order, with the name there at once and 5 s late: one pool within
10 s. Then once each: nodes that found a pool only together, and two pools with data that can not become one.
"""

import argparse
import collections
import contextlib
import http.client
import json
import os
import pathlib
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

NAME = "pool.lamplight.test"
PORT = 7171
NODES_MAX = 5
ONE_POOL_S = 10
LATE_S = 5
# A node that has all its links looks the name up again after at most this time.
LOOKS_AGAIN_S = 15
# What a node may say in the time of a round, whatever it meets.
LINES_MAX = 60
PREFIX = f"lamp{os.getpid()}"
NET = "10.77.0"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--program", default="target/debug/lamplight")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("names.py: network namespaces are made here: run it as root")
    if args.inside is None:
        sys.exit(outside(args))
    began = time.monotonic()
    Node.program, Node.prefix = os.path.abspath(args.program), args.inside
    with Dns() as dns:
        for number in range(args.rounds):
            for nodes in (3, NODES_MAX):
                for late_s in (0, LATE_S):
                    one_name(dns, number, nodes, late_s)
        founded_together(dns)
        strangers(dns)
    print(f"passed in {time.monotonic() - began:.0f} s")


def outside(args):
    """Makes the networks and runs the rounds in the one that reaches all others."""
    with contextlib.ExitStack() as stack:
        hub = f"{PREFIX}-hub"
        namespace(stack, hub, f"127.0.0.1")
        ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        ip("-n", hub, "addr", "add", f"{NET}.1/24", "dev", "bridge")
        ip("-n", hub, "link", "set", "bridge", "up")
        for index in range(NODES_MAX):
            name = f"{PREFIX}-{index}"
            namespace(stack, name, f"{NET}.1")
            ip("-n", hub, "link", "add", f"port{index}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("-n", hub, "link", "set", f"port{index}", "master", "bridge", "up")
            ip("-n", name, "addr", "add", f"{address(index)}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
        command = [sys.executable, os.path.abspath(__file__), "--inside", PREFIX, "--rounds", str(args.rounds)]
        return subprocess.run(["ip", "netns", "exec", hub, *command, "--program", args.program]).returncode


def namespace(stack, name, nameserver):
    etc = pathlib.Path("/etc/netns") / name
    stack.callback(lambda: shutil.rmtree(etc, ignore_errors=True))
    etc.mkdir(parents=True)
    (etc / "resolv.conf").write_text(f"nameserver {nameserver}\noptions timeout:1 attempts:1\n")
    (etc / "hosts").write_text("127.0.0.1 localhost\n")
    stack.callback(lambda: subprocess.run(["ip", "netns", "del", name], check=False))
    ip("netns", "add", name)
    ip("-n", name, "link", "set", "lo", "up")


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def address(index):
    return f"{NET}.{10 + index}"


# The parts.


def one_name(dns, number, count, late_s):
    began = time.monotonic()
    dns.publish([address(index) for index in range(count)], late_s)
    with started(count, "--found") as nodes:
        until(f"one pool of {count}", began + ONE_POOL_S, lambda: are_one(nodes), nodes)
        took_s = time.monotonic() - began
        for node in nodes:
            status, receipt = node.call("PUT", f"/v1/docs/c/{node.index}?wait=final", {"n": node.index})
            check(status == 201 and receipt["status"] == "final", (status, receipt))
        for node in nodes:
            for other in nodes:
                check(node.call("GET", f"/v1/docs/c/{other.index}")[0] in (200, 404), "it reads")
        # A lookup that failed is reported until the next one.
        until("no problems", time.monotonic() + LOOKS_AGAIN_S + 5, lambda: not any(problems(node) for node in nodes), nodes)
        until("all documents everywhere", time.monotonic() + 5, lambda: all(holds_all(node, count) for node in nodes), nodes)
        for node in nodes:
            node.is_quiet()
    print(f"round {number}: {count} nodes, the name {late_s} s late: one pool after {took_s:.1f} s")


def problems(node):
    return node.call("GET", "/v1/pool")[1]["problems"]


def founded_together(dns):
    began = time.monotonic()
    dns.publish([address(index) for index in range(3)], LATE_S)
    with started(3, "--found-with", "3") as nodes:
        until("a node answers", began + 4, lambda: nodes[0].call("GET", "/v1/pool")[0] == 200, nodes)
        time.sleep(max(0, began + 3.5 - time.monotonic()))
        for node in nodes:
            status, pool = node.call("GET", "/v1/pool")
            check(pool["state"] == "joining" and pool["pool"] is None, pool)
            check(any("1 of 3 nodes (--found-with)" in problem["detail"] for problem in pool["problems"]), pool)
            check(node.call("GET", "/readyz")[0] == 503, "it is not ready")
        until("one pool of 3", began + ONE_POOL_S, lambda: are_one(nodes), nodes)
        for node in nodes:
            check("is given up" not in node.said(), "no pool was founded apart")
            node.is_quiet()
    print("--found-with 3: nobody was ready before, and one pool was founded")


def strangers(dns):
    began = time.monotonic()
    dns.publish([address(index) for index in range(2)], LATE_S)
    with started(2, "--found") as nodes:
        for node in nodes:
            until("it is ready", began + LATE_S, lambda node=node: node.call("GET", "/readyz")[0] == 200, nodes)
            check(node.call("PUT", f"/v1/docs/c/{node.index}", {"n": node.index})[0] == 201, "it takes a write")

        def told(node):
            problems = node.call("GET", "/v1/pool")[1]["problems"]
            return any("belongs to pool" in problem["detail"] for problem in problems)

        until("both say that the other has another pool", began + ONE_POOL_S, lambda: all(map(told, nodes)), nodes)
        time.sleep(3)
        for node in nodes:
            warned = [line for line in node.said().splitlines() if "they stay two" in line]
            check(len(warned) == 1 and "WARN" in warned[0], warned)
            check(node.call("GET", f"/v1/docs/c/{node.index}")[0] == 200, "what was written is there")
            node.is_quiet()
    print("two pools with data: both stay, and say so once a minute")


def are_one(nodes):
    pools = [node.call("GET", "/v1/pool")[1] or {} for node in nodes]
    ready = all(node.call("GET", "/readyz")[0] == 200 for node in nodes)
    ids = {(pool.get("pool") or {}).get("id") for pool in pools}
    return ready and len(ids) == 1 and all(len(pool.get("members", [])) == len(nodes) for pool in pools)


def holds_all(node, count):
    return all(node.call("GET", f"/v1/docs/c/{index}")[0] == 200 for index in range(count))


# What they need.


@contextlib.contextmanager
def started(count, *flags):
    """Nodes that are started at once, in any order."""
    with contextlib.ExitStack() as stack:
        root = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lamplight-names-")))
        order = random.sample(range(count), count)
        nodes = {}
        for index in order:
            nodes[index] = stack.enter_context(Node(index, root, flags))
            time.sleep(random.choice([0, 0, 0.1, 0.3]))
        yield [nodes[index] for index in range(count)]


class Node:
    program = None
    prefix = None

    def __init__(self, index, root, flags):
        self.index, self.log = index, root / f"{index}.log"
        host = address(index)
        serve = [Node.program, "serve", "--listen", f"0.0.0.0:{PORT}", "--advertise", f"http://{host}:{PORT}", "--insecure"]
        data = ["--memory"] if index % 2 else ["--data", str(root / str(index))]
        # Some say openly that the name stands for several nodes.
        join = ["--join", f"{'dns+' if index % 2 else ''}http://{NAME}:{PORT}"]
        self.command = ["ip", "netns", "exec", f"{Node.prefix}-{index}", *serve, *data, *join, "--name", f"n{index}", *flags]

    def __enter__(self):
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def call(self, method, path, body=None):
        """The status and the JSON of the answer; 0 and nothing if there is none."""
        connection = http.client.HTTPConnection(address(self.index), PORT, timeout=5)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"content-type": "application/json"} if text else {})
            answer = connection.getresponse()
            content = answer.read()
            return answer.status, json.loads(content) if content else None
        except (OSError, http.client.HTTPException):
            return 0, None
        finally:
            connection.close()

    def said(self):
        return self.log.read_text(errors="replace")

    def is_quiet(self):
        """No cause is told more than once a minute, and a round is shorter than that."""
        lines = self.said().splitlines()
        check(len(lines) <= LINES_MAX, f"n{self.index} says {len(lines)} lines:\n" + "\n".join(lines[-20:]))
        # Without times, colours, ids and numbers.
        bare = [re.sub(r"\x1b\[[0-9;]*m|^\S+|[0-9a-f]{8}-[0-9a-f-]+|\d+", "", line) for line in lines]
        for line, times in collections.Counter(bare).items():
            check(times <= 4, f"n{self.index} says {times} times: {line}")


class Dns:
    """Answers what the addresses of the name are, once they are published. Until then there is no such name."""

    def __enter__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((f"{NET}.1", 53))
        self.publish([], 0)
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.socket.close()

    def publish(self, addresses, late_s):
        self.state = (addresses, time.monotonic() + late_s)

    def serve(self):
        while True:
            try:
                query, sender = self.socket.recvfrom(512)
                self.socket.sendto(self.answer(query), sender)
            except OSError:
                return

    def answer(self, query):
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode().lower())
            at += 1 + query[at]
        question, kind = query[12 : at + 5], struct.unpack(">H", query[at + 1 : at + 3])[0]
        addresses, since = self.state
        known = ".".join(labels) == NAME and time.monotonic() >= since
        shuffled = random.sample(addresses, len(addresses)) if known and kind == 1 else []
        records = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 0, 4) + socket.inet_aton(it) for it in shuffled)
        flags = 0x8180 if known else 0x8183
        return query[:2] + struct.pack(">HHHHH", flags, 1, len(shuffled), 0, 0) + question + records


def until(what, end, holds, nodes):
    while not holds():
        if time.monotonic() > end:
            for node in nodes:
                print(f"-- n{node.index}: {json.dumps(node.call('GET', '/v1/pool')[1])}\n{node.said()}", file=sys.stderr)
            sys.exit(f"names.py: not in time: {what}")
        time.sleep(0.05)


def check(holds, what):
    if not holds:
        raise AssertionError(what)


if __name__ == "__main__":
    main()
