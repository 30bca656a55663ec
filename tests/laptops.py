#!/usr/bin/env python3
"""Real nodes with the default address, http://127.0.0.1:7171, each on a machine of its own, as on two laptops. Both write all
the while; one is frozen for longer than the limits of silence and wakes up at another address, the other is killed and
started again at another address. As root, for network namespaces are made; all that is made is removed again.

    tests/laptops.py [--program target/debug/lamplight]

It runs once with a third node that both join, and once with the two alone.
"""

import argparse
import collections
import contextlib
import ctypes
import datetime
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

import names
from names import check, ip

NET = "10.78.0"
PORT = 7171
HUB = f"http://{NET}.1:{PORT}"
DEFAULT = f"http://127.0.0.1:{PORT}"
# A link falls silent after 5 s, a member after 8 s.
FROZEN_S = 20
# How long the nodes may take to be one pool again.
TOGETHER_S = 30
# No cause is told more often.
QUIET_S = 60
# What stands in the log before what a process says.
START = "--- start"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/debug/lamplight")
    args = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("laptops.py: network namespaces are made here: run it as root")
    Node.program = os.path.abspath(args.program)
    began = time.monotonic()
    with machines("hub", "anna", "bert") as (hub, anna, bert):
        beside_a_third(hub, anna, bert)
        alone(anna, bert)
    print(f"passed in {time.monotonic() - began:.0f} s")


# The parts.


def beside_a_third(hub, anna, bert):
    """Laptops that nobody can dial: all they have is the address of a third node."""
    with started() as start:
        hub = start(hub, "--listen", f"0.0.0.0:{PORT}", "--insecure", "--advertise", HUB, "--found")
        nodes = [hub, start(anna, "--join", HUB), start(bert, "--join", HUB)]
        stay_one_pool(nodes, nodes[1], nodes[2])
    print("two laptops and a third node: one pool all the while, and nothing is lost")


def alone(anna, bert):
    """Each knows of the other only where it was seen last."""
    open_to_all = ["--listen", f"0.0.0.0:{PORT}", "--insecure", "--advertise", DEFAULT]
    with started() as start:
        anna = start(anna, *open_to_all)
        bert = start(bert, *open_to_all, "--join", f"http://{anna.machine.address}:{PORT}")
        stay_one_pool([anna, bert], anna, bert)
    print("two laptops alone: one pool all the while, and nothing is lost")


def stay_one_pool(nodes, frozen, restarted):
    until("one pool", lambda: are_one(nodes), nodes)
    until("the addresses of all", lambda: all(shows_addresses(node, nodes) for node in nodes), nodes)
    ids = [node.id() for node in nodes]
    with writers(nodes) as written:
        until("each has written", lambda: all(written[node] for node in nodes), nodes)
        frozen.signal(signal.SIGSTOP)
        frozen.machine.move(20)
        time.sleep(FROZEN_S)
        frozen.signal(signal.SIGCONT)
        until_together(nodes, ids)
        restarted.kill()
        restarted.machine.move(21)
        restarted.start()
        until_together(nodes, ids)
    for node in nodes:
        status, receipt = node.call("PUT", f"/v1/docs/end/{node.name}?wait=final&timeout=10s", {})
        check(status == 201 and receipt["status"] == "final", f"{node.name}: {status} {receipt}")
    for node in nodes:
        lost = [id for ids in written.values() for id in ids if node.call("GET", f"/v1/docs/c/{id}")[0] != 200]
        check(not lost, f"{node.name} lacks {len(lost)} of {sum(map(len, written.values()))} documents: {lost[:5]}")
        node.is_quiet()


def until_together(nodes, ids):
    """All hold the same members under the same ids, each is shown where it is now, and finality goes on."""
    until("one pool again", lambda: are_one(nodes), nodes)
    check([node.id() for node in nodes] == ids, "each has the id that it had")
    until("the addresses of all", lambda: all(shows_addresses(node, nodes) for node in nodes), nodes)
    for node in nodes:
        before = int(node.pool()["clock"])
        until("what was written is final", lambda: int(node.pool()["frontier"]) >= before, nodes)


def are_one(nodes):
    """Whether all are linked, and hold each other for members."""
    ids = {node.id() for node in nodes}
    return all(is_linked(node, ids) for node in nodes)


def is_linked(node, ids):
    pool = node.pool()
    if pool.get("state") != "member" or {member["id"] for member in pool["members"]} != ids:
        return False
    return all(member["self"] or member["alive"] and not member.get("evicted") for member in pool["members"])


def shows_addresses(node, nodes):
    urls = {member["name"]: member["urls"] for member in node.pool()["members"]}
    return all(urls[other.name] == [f"http://{other.machine.address}:{PORT}"] for other in nodes)


# What they need.


@contextlib.contextmanager
def machines(*machine_names):
    """Machines with a network of their own, at one switch."""
    with contextlib.ExitStack() as stack:
        switch = f"{names.PREFIX}-switch"
        names.namespace(stack, switch, "127.0.0.1")
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        made = []
        for index, name in enumerate(machine_names):
            machine = Machine(f"{names.PREFIX}-{name}", name, index + 1)
            names.namespace(stack, machine.namespace, "127.0.0.1")
            ends = ["type", "veth", "peer", "name", "eth0", "netns", machine.namespace]
            ip("-n", switch, "link", "add", f"port{index}", *ends)
            ip("-n", switch, "link", "set", f"port{index}", "master", "bridge", "up")
            ip("-n", machine.namespace, "link", "set", "eth0", "up")
            ip("-n", machine.namespace, "addr", "add", f"{machine.address}/24", "dev", "eth0")
            made.append(machine)
        yield made


class Machine:
    def __init__(self, namespace, name, number):
        self.namespace, self.name, self.number = namespace, name, number

    @property
    def address(self):
        return f"{NET}.{self.number}"

    def move(self, by):
        """Its interface gets another address, and loses the one it had."""
        before, self.number = self.address, self.number + by
        ip("-n", self.namespace, "addr", "del", f"{before}/24", "dev", "eth0")
        ip("-n", self.namespace, "addr", "add", f"{self.address}/24", "dev", "eth0")

    @contextlib.contextmanager
    def entered(self):
        """What this thread opens meanwhile is opened on this machine."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as here, open(f"/run/netns/{self.namespace}") as there:
            check(libc.setns(there.fileno(), 0) == 0, os.strerror(ctypes.get_errno()))
            try:
                yield
            finally:
                check(libc.setns(here.fileno(), 0) == 0, os.strerror(ctypes.get_errno()))


@contextlib.contextmanager
def started():
    with contextlib.ExitStack() as stack:
        root = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lamplight-laptops-")))
        yield lambda machine, *flags: stack.enter_context(Node(machine, root, flags))


class Node:
    program = None

    def __init__(self, machine, root, flags):
        self.machine, self.name, self.log = machine, machine.name, root / f"{machine.name}.log"
        serve = [Node.program, "serve", "--name", self.name, "--data", str(root / self.name)]
        self.command = ["ip", "netns", "exec", machine.namespace, *serve, *flags]

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()

    def start(self):
        with open(self.log, "ab") as log:
            log.write(f"{START}\n".encode())
            log.flush()
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def signal(self, number):
        self.process.send_signal(number)

    def call(self, method, path, body=None):
        """The status and the JSON of the answer that a client on this machine gets; 0 and nothing if there is none."""
        connection = Connection(self.machine)
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

    def pool(self):
        return self.call("GET", "/v1/pool")[1] or {}

    def id(self):
        return self.pool().get("node")

    def said(self):
        return re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text(errors="replace"))

    def is_quiet(self):
        """No cause is told more than once a minute."""
        for said in self.said().split(START):
            last = {}
            for stamp, _, told in (line.partition(" ") for line in said.strip().splitlines()):
                # Numbers differ from one link to the next.
                at, cause = datetime.datetime.fromisoformat(stamp.rstrip("Z")), re.sub(r"\d+", "", told)
                if cause in last:
                    check((at - last[cause]).total_seconds() >= QUIET_S, f"{self.name} says twice a minute: {told}\n{said}")
                last[cause] = at


class Connection(http.client.HTTPConnection):
    """A connection to the node on a machine, from there."""

    def __init__(self, machine):
        super().__init__("127.0.0.1", PORT, timeout=2)
        self.machine = machine

    def connect(self):
        with self.machine.entered():
            super().connect()


@contextlib.contextmanager
def writers(nodes):
    """Writes to each node all the while; the ids of what was acknowledged, by node."""
    written, ended = collections.defaultdict(list), threading.Event()

    def write(node):
        for number in range(10**6):
            if ended.wait(0.1):
                return
            id = f"{node.name}-{number}"
            if node.call("PUT", f"/v1/docs/c/{id}", {"n": number})[0] in (200, 201):
                written[node].append(id)

    threads = [threading.Thread(target=write, args=(node,), daemon=True) for node in nodes]
    for thread in threads:
        thread.start()
    try:
        yield written
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def until(what, holds, nodes):
    end = time.monotonic() + TOGETHER_S
    while not holds():
        if time.monotonic() > end:
            for node in nodes:
                print(f"-- {node.name}: {json.dumps(node.pool())}\n{node.said()}", file=sys.stderr)
            sys.exit(f"laptops.py: not in time: {what}")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
