"""Nodes as real processes, with their data directories, and the network between them."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import api

HERE = os.path.dirname(os.path.abspath(__file__))
# Below the ports that the system gives to outgoing connections.
PORTS = (20000, 32000)


class Ports:
    def __init__(self):
        self.next = random.SystemRandom().randrange(*PORTS)

    def take(self):
        while True:
            self.next = self.next + 1 if self.next + 1 < PORTS[1] else PORTS[0]
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", self.next))
                    return self.next
                except OSError:
                    continue


class Node:
    """A place for a node: its addresses and its directory, through all the processes and ids that it has."""

    def __init__(self, name, port, advertised, directory):
        self.name, self.port, self.advertised, self.directory = name, port, advertised, directory
        self.process, self.flags = None, ()
        # Whether it is stopped by a signal, never comes back, had its links cut by an operator, and gets no requests.
        self.paused = self.gone = self.cut = self.shunned = False
        # What is done to it at the moment, by the number of the strike; the end of an earlier strike leaves it alone.
        self.strike = None

    @property
    def running(self):
        return self.process is not None and self.process.poll() is None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.advertised}"

    def ask(self, method, path, body=None, timeout=5):
        return api.ask(self.port, method, path, body, timeout)

    def pool(self):
        """What `GET /v1/pool` says; nothing where it does not answer."""
        answer = self.ask("GET", "/v1/pool", timeout=2)
        return answer.json() if answer.status == 200 else None


class Cluster:
    def __init__(self, program, directory, size):
        self.program, self.directory, self.ports = program, directory, Ports()
        self.nodes, self.made = [], 0
        self.network = subprocess.Popen(
            [sys.executable, os.path.join(HERE, "proxy.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(size):
            self.add()

    def add(self):
        name = f"n{self.made}"
        self.made += 1
        node = Node(name, self.ports.take(), self.ports.take(), os.path.join(self.directory, name))
        self.nodes.append(node)
        return node

    def move(self, node):
        """Gives a node that is down other addresses for its next start."""
        node.port, node.advertised = self.ports.take(), self.ports.take()

    def present(self):
        """Nodes that are there or come back."""
        return [node for node in self.nodes if not node.gone]

    def start(self, node, *flags):
        others = [other.url for other in self.present() if other is not node]
        # Once: where it comes back with an empty disk, it is to join the others.
        founder = node is self.nodes[0] and not os.path.exists(f"{node.directory}.log")
        joining = ["--found"] if founder else [part for url in others for part in ("--join", url)]
        with open(f"{node.directory}.log", "a") as log:
            log.write(f"--- start {' '.join(flags)}\n")
            log.flush()
            node.process = subprocess.Popen(
                [
                    self.program, "serve", "--listen", f"127.0.0.1:{node.port}", "--advertise", node.url,
                    "--name", node.name, "--data", node.directory, *joining, *flags,
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        node.paused, node.cut, node.flags = False, False, flags
        self.tell(node={"name": node.name, "listen": node.advertised, "target": node.port, "pid": node.process.pid})

    def kill(self, node):
        if node.process is not None:
            node.process.kill()
            node.process.wait()
        node.paused = False

    def stop(self, node, timeout=15):
        """Ends the process as an operator does; whether it ended by itself."""
        if not node.running:
            return False
        self.resume(node)
        node.process.send_signal(signal.SIGTERM)
        try:
            node.process.wait(timeout)
            return True
        except subprocess.TimeoutExpired:
            self.kill(node)
            return False

    def said(self, node, text):
        """Whether the log of the node's last process has this text."""
        with open(f"{node.directory}.log", errors="replace") as log:
            return text in log.read().rpartition("--- start")[2]

    def pause(self, node):
        if node.running:
            node.process.send_signal(signal.SIGSTOP)
            node.paused = True

    def resume(self, node):
        if node.running and node.paused:
            node.process.send_signal(signal.SIGCONT)
        node.paused = False

    def block(self, directions, reset=False):
        self.tell(block=sorted(directions), reset=reset)

    def tell(self, **command):
        self.network.stdin.write(json.dumps(command) + "\n")
        self.network.stdin.flush()
        if self.network.stdout.readline() != "ok\n":
            raise RuntimeError("the process that carries the network has ended")

    def set_aside(self, node):
        """Takes the data directory away, as the loss of its disk does; it stays beside for whoever looks into a failure."""
        count = sum(name.startswith(f"{node.name}.lost") for name in os.listdir(self.directory))
        os.rename(node.directory, f"{node.directory}.lost{count}")

    def copy(self, node):
        shutil.copytree(node.directory, f"{node.directory}.copy")

    def twin(self, node):
        """Another node, with a copy of the disk of one that is down."""
        other = self.add()
        shutil.copytree(node.directory, other.directory)
        return other

    def put_back(self, node):
        self.set_aside(node)
        os.rename(f"{node.directory}.copy", node.directory)

    def wait_ready(self, nodes, timeout):
        """The nodes that do not take requests within this time."""
        end, left = time.monotonic() + timeout, list(nodes)
        while left and time.monotonic() < end:
            left = [node for node in left if node.ask("GET", "/readyz", timeout=2).status != 200]
            time.sleep(0.05 if left else 0)
        return left

    def close(self):
        for node in self.nodes:
            self.kill(node)
        self.network.stdin.close()
        self.network.wait()
