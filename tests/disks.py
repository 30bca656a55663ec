#!/usr/bin/env python3
"""Real disks that go bad under real nodes: full, failing, without power. As root, for file systems are made and mounted.

    tests/disks.py full|failing|power [path of the program, target/debug/lamplight]

`full` is a small ext4 file system on a loop device. For the others nbdkit serves the disk, so that it can be told to
fail, or killed together with what it was given and never told to flush, which is what a power cut takes.
"""

import contextlib
import http.client
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time

PATIENCE_S = 60
WRITERS = 8
CUTS = 10
CUTS_UNSYNCED = 4


def main():
    parts = {"full": full, "failing": failing, "power": power}
    if len(sys.argv) not in (2, 3) or sys.argv[1] not in parts:
        sys.exit(f"usage: tests/disks.py {'|'.join(parts)} [program]")
    if os.geteuid() != 0:
        sys.exit("disks.py: file systems are made and mounted here: run it as root")
    Node.program = os.path.abspath(sys.argv[2] if len(sys.argv) == 3 else "target/debug/lamplight")
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        root = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lamplight-disks-")))
        parts[sys.argv[1]](stack, root)
    print(f"passed in {time.monotonic() - began:.0f} s")


# The parts.


def full(stack, root):
    """A node whose disk runs full refuses writes, and goes on when there is room."""
    disk = stack.enter_context(LoopDisk(root / "small", megabytes=80))
    a = stack.enter_context(Node(root / "a"))
    b = stack.enter_context(Node(root / "b", join=[a]))
    c = stack.enter_context(Node(disk.path / "data", join=[a, b]))
    until("three members, all linked", lambda: all(node.linked() == 2 for node in (a, b, c)))

    ballast = disk.path / "ballast"
    fill(ballast)
    large, acknowledged = "x" * 250_000, set()
    for n in range(1000):
        status, headers, body = c.call("PUT", f"/v1/docs/kept/large-{n}", {"text": large})
        if status != 201:
            break
        acknowledged.add(f"large-{n}")
    check(status == 507 and body["type"] == "urn:lamplight:problem:disk-full" and body["status"] == 507, (status, body))
    check(headers["content-type"] == "application/problem+json", headers)
    check(acknowledged, "what was made ready is used first")
    deletes = [{"delete": {"collection": "kept", "id": "large-1"}}, {"delete": {"collection": "kept", "id": "large-2"}}]
    check(c.call("DELETE", "/v1/docs/kept/large-3")[0] == 200, "a deletion goes into the reserve")
    check(c.call("POST", "/v1/tx", {"commands": deletes})[0] == 200, "and so does a transaction that only deletes")
    deletes.append({"put": {"collection": "kept", "id": "small", "value": 1}})
    check(c.call("POST", "/v1/tx", {"commands": deletes})[0] == 507, "one that writes, too, does not")
    acknowledged -= {"large-1", "large-2", "large-3"}
    print(f"{len(acknowledged)} large documents went into what was made ready, then 507: {body['detail']}")

    # Longer than a silent link lives.
    end = time.monotonic() + 7
    sent = 0
    while time.monotonic() < end:
        check(a.call("PUT", f"/v1/docs/kept/from-a-{sent}", {"n": sent})[0] == 201, "the others take writes")
        acknowledged.add(f"from-a-{sent}")
        sent += 1
        check(c.call("GET", "/v1/docs/kept/large-0")[0] == 200, "reads go on")
        check(c.call("PUT", "/v1/docs/kept/refused", {})[0] == 507, "writes are refused")
        check(c.linked() == 2 and a.linked() == 2, "the links stay up")
        time.sleep(0.1)
    session = a.call("GET", "/v1/docs/kept/large-0")[1]["lamplight-session"]
    until("b has what a wrote", lambda: b.holds(session))
    check(not c.holds(session), "c claims to hold what it has no room for")

    c.kill()
    c.start()
    until("c is back, on a full disk", lambda: c.ready())
    check(c.call("PUT", "/v1/docs/kept/refused", {})[0] == 507, "writes are refused after a restart too")
    check({id for id in acknowledged if id.startswith("large")} <= c.listing().keys(), "acknowledged writes are lost")

    ballast.unlink()
    freed = time.monotonic()
    until("writes resume", lambda: c.call("PUT", "/v1/docs/kept/resumed", {})[0] == 201)
    print(f"writes resumed {time.monotonic() - freed:.1f} s after there was room")
    acknowledged.add("resumed")
    until("c has what a wrote", lambda: c.holds(session))
    print(f"all {sent} documents of the others were there {time.monotonic() - freed:.1f} s after there was room")
    c.kill()
    c.start()
    until("c is back", lambda: c.ready())
    until("c holds all that was acknowledged, and no more", lambda: c.listing().keys() == acknowledged)
    check(a.listing() == b.listing() == c.listing(), "the nodes differ")

    full_while_a_snapshot_is_due(stack, root)

    c.kill()
    sh("mount", "-o", "remount,ro", disk.path)
    ended = subprocess.run(c.command, capture_output=True, text=True, timeout=PATIENCE_S)
    print(f"read-only: exit code {ended.returncode}, {ended.stderr.strip()}")
    check(ended.returncode == 1 and ended.stderr.count("\n") == 1 and "--data" in ended.stderr, ended)


def full_while_a_snapshot_is_due(stack, root):
    """A snapshot that finds no room waits for it; then it is finished, and what it stands for is given back."""
    disk = stack.enter_context(LoopDisk(root / "due", megabytes=320))
    data = disk.path / "data"
    node = stack.enter_context(Node(data, more=["--retain-ops", "0", "--snapshot-bytes", "1GiB"]))
    until("the node is ready", node.ready)
    large, ids = "x" * 250_000, set()
    # Documents of 35 MB, and a journal of twice that. The snapshot holds the ops too, which are not forgotten when it begins.
    for n in range(280):
        check(node.call("PUT", f"/v1/docs/kept/large-{n % 140}", {"text": large, "n": n})[0] in (200, 201), "room at first")
        ids.add(f"large-{n % 140}")
    node.kill()
    ballast = disk.path / "ballast"
    fill(ballast)
    # From now on a snapshot is due: it begins, and finds no more room than what was made ready.
    node.command[node.command.index("1GiB")] = "1MiB"
    node.start()
    until("the node is back, on a full disk", node.ready)

    def refused():
        status, _, body = node.call("PUT", "/v1/docs/kept/filler", {"text": large, "n": os.urandom(8).hex()})
        return status == 507 and body["type"] == "urn:lamplight:problem:disk-full"

    until("writes are refused", refused)
    ids |= node.listing().keys() & {"filler"}
    before = segments(data)
    check("journal-00000001" in before, f"nothing was cut, for the snapshot is not whole: {before}")
    check(node.call("GET", "/v1/docs/kept/large-0")[0] == 200, "reads go on")
    check(node.listing().keys() == ids, "all documents are there")
    ballast.unlink()
    until("writes resume", lambda: node.call("PUT", "/v1/docs/kept/resumed", {})[0] == 201)
    ids.add("resumed")
    until("the snapshot is whole, and the beginning of the journal is given back", lambda: "journal-00000001" not in segments(data))
    print(f"a snapshot that was due on a full disk: {len(before)} segments before there was room, {len(segments(data))} after")
    node.kill()
    node.start()
    until("the node is back", node.ready)
    check(node.listing().keys() == ids, "documents are lost")
    node.kill()


def segments(data):
    return sorted(path.name for path in data.glob("journal-????????"))


def failing(stack, root):
    """A node whose disk fails acknowledges nothing more, and ends."""
    disk = stack.enter_context(NbdDisk(root / "disk", "--filter=error"))
    switch = root / "fails-now"
    disk.options = ["error=EIO", "error-pwrite-rate=100%", f"error-pwrite-file={switch}"]
    disk.attach()
    node = stack.enter_context(Node(disk.path / "data"))
    until("the node is ready", node.ready)
    writers = Writers([node])
    time.sleep(2)
    switch.touch()
    code = node.process.wait(PATIENCE_S)
    writers.stop()
    switch.unlink()
    last = node.said[-1]
    check(code == 1 and last.startswith("lamplight: the node has stopped: cannot "), (code, last))
    check(set(writers.refused) == {503}, writers.refused)
    print(f"{len(writers.ids)} writes acknowledged, {writers.refused[503]} answered with 503, exit code {code}: {last.strip()}")
    disk.cut()
    disk.attach()
    node.start()
    until("the node is back", node.ready)
    check(writers.ids <= node.listing().keys(), "acknowledged writes are lost")
    check(node.call("PUT", "/v1/docs/kept/again", {})[0] == 201, "it takes writes again")


def power(stack, root):
    """What was acknowledged outlives power cuts; where the disk was not waited for, the node comes back as another."""
    disk = stack.enter_context(NbdDisk(root / "synced", "--filter=cache"))
    disk.options = ["cache=writeback"]
    disk.attach()
    check_cut(disk)
    node, ids = stack.enter_context(Node(disk.path / "data")), set()
    until("the node is ready", node.ready)
    name = node.id()
    for cut in range(CUTS):
        writers = Writers([node], f"cut{cut}")
        # Not always at the same point of the file system's own five seconds.
        time.sleep(0.3 + 0.17 * (cut % 7))
        disk.cut()
        node.kill()
        writers.stop()
        ids |= writers.ids
        disk.attach()
        node.start()
        until("the node is back", node.ready)
        check(ids <= node.listing().keys(), f"cut {cut}: {len(ids - node.listing().keys())} acknowledged writes are lost")
        check(node.id() == name, "it needs no new id")
    print(f"{len(ids)} writes acknowledged over {CUTS} power cuts, none lost")
    node.kill()
    disk.cut()
    unsynced(stack, root)


def unsynced(stack, root):
    """`--sync interval`: the end of what a node has issued may be gone, and nobody may take it for something else."""
    disk = stack.enter_context(NbdDisk(root / "unsynced", "--filter=cache"))
    disk.options = ["cache=writeback"]
    disk.attach()
    peer = stack.enter_context(Node(root / "peer"))
    node = stack.enter_context(Node(disk.path / "data", join=[peer], sync="interval", boot=root / "boot_id"))
    until("the nodes are ready", lambda: node.ready() and peer.linked() == 1)
    ids, ops, names, lost = set(), [], {node.id()}, 0
    for cut in range(CUTS_UNSYNCED):
        # Every other time nobody else has the node's last writes.
        node.cut(cut % 2 == 1)
        writers = Writers([node], f"cut{cut}")
        time.sleep(1.3 + 0.4 * cut)
        disk.cut()
        node.kill()
        writers.stop()
        ids |= writers.ids
        ops += writers.ops
        disk.attach()
        node.start()
        until("the node is back", node.ready)
        names.add(node.id())
        check(len(names) == cut + 2, "it has come back under an id that it had before the cut")
        session = peer.session()
        until("it holds what its peer does", lambda: node.holds(session))
        lost += len(ids - node.listing().keys())
        ids &= node.listing().keys()
    check(len(ops) == len(set(ops)), "an op id was given twice")
    until("the peer holds all", lambda: peer.holds(node.session()))
    # The eviction of the id that was given up may come while the logs are read.
    until("the nodes agree about each op", lambda: node.log() == peer.log())
    check(node.listing() == peer.listing(), "the nodes differ")
    print(f"--sync interval: {len(ops)} writes acknowledged over {CUTS_UNSYNCED} power cuts, {lost} lost, no op id twice")


def check_cut(disk):
    """A cut that took nothing would prove nothing."""
    (disk.path / "kept").write_bytes(os.urandom(1 << 20))
    os.sync()
    kept = (disk.path / "kept").read_bytes()
    (disk.path / "taken").write_bytes(bytes(1 << 20))
    disk.cut()
    disk.attach()
    check((disk.path / "kept").read_bytes() == kept, "the cut takes what was synced")
    check(not (disk.path / "taken").exists(), "the cut leaves what was not synced")


# Disks.


class LoopDisk:
    """An ext4 file system on a loop device."""

    def __init__(self, path, megabytes):
        self.path = path
        path.mkdir()
        image = path.with_suffix(".img")
        with open(image, "wb") as file:
            file.truncate(megabytes << 20)
        sh("mkfs.ext4", "-q", "-F", "-m", "0", image)
        sh("mount", "-o", "loop", image, path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        run_anyway("umount", "--lazy", self.path)


class NbdDisk:
    """An ext4 file system on a disk that nbdkit serves: nbdfuse makes a file of it, and that becomes a loop device."""

    def __init__(self, path, *filters, megabytes=256):
        self.path, self.filters, self.options = path, filters, []
        self.image, self.on = path.with_suffix(".img"), contextlib.ExitStack()
        path.mkdir()
        with open(self.image, "wb") as file:
            file.truncate(megabytes << 20)
        sh("mkfs.ext4", "-q", "-F", self.image)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.cut()

    def attach(self):
        """Switches it on, and mounts it."""
        with contextlib.ExitStack() as on:
            run = pathlib.Path(on.enter_context(tempfile.TemporaryDirectory(prefix="lamplight-disk-")))
            server, file = run / "socket", run / "fuse" / "disk"
            file.parent.mkdir()
            # Unwound from the last to the first: unmounted when nothing it has can reach the disk any more.
            on.callback(run_anyway, "umount", "--lazy", file.parent)
            serve = ["nbdkit", "--foreground", "--unix", server, *self.filters, "file", self.image, *self.options]
            served = subprocess.Popen(serve)
            on.callback(end, served)
            until("nbdkit serves", server.exists)
            bridge = subprocess.Popen(["nbdfuse", file, "--unix", server])
            until("nbdfuse shows the disk", file.exists)
            loop = subprocess.check_output(["losetup", "--find", "--show", file], text=True).strip()
            on.callback(run_anyway, "losetup", "--detach", loop)
            # As at each start of a machine: the file system's own journal is gone through first. 1: it had work to do.
            checked = subprocess.run(["e2fsck", "-p", loop], stdout=subprocess.DEVNULL)
            check(checked.returncode in (0, 1), f"e2fsck ends with {checked.returncode}")
            sh("mount", loop, self.path)
            on.callback(run_anyway, "umount", "--lazy", self.path)
            # The cut comes first.
            on.callback(end, bridge)
            on.callback(end, served)
            self.on = on.pop_all()

    def cut(self):
        """Takes the power away: what was not flushed is gone. The file system goes with it."""
        self.on.close()


# Nodes, and those who write to them.


class Node:
    """A process of the program that keeps its data in a directory."""

    program = None

    def __init__(self, data, join=(), sync="always", boot=None, more=()):
        with socket.create_server(("127.0.0.1", 0)) as chosen:
            self.port = chosen.getsockname()[1]
        self.command = [self.program, "serve", "--listen", f"127.0.0.1:{self.port}", "--data", data, "--sync", sync]
        self.command += [word for node in join for word in ("--join", node.url())] + list(more)
        self.boot = boot
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        command = self.command
        if self.boot is not None:
            # The machine has not been switched off: the node is to see that it has, as it would after a real cut.
            self.boot.write_text(os.urandom(16).hex())
            script = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", script, self.boot, *command]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.said = []
        self.reader = threading.Thread(target=lambda: self.said.extend(self.process.stderr), daemon=True)
        self.reader.start()

    def kill(self):
        end(self.process)
        self.reader.join()

    def call(self, method, path, body=None, headers=None, connection=None):
        connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"content-type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, answer.headers, json.loads(text)

    def ready(self):
        check(self.process.poll() is None, f"the node has ended: {''.join(self.said)}")
        try:
            return self.call("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def id(self):
        return self.call("GET", "/v1/pool")[2]["node"]

    def linked(self):
        """To how many members it has links."""
        return self.ready() and sum(m["link"] == "linked" for m in self.call("GET", "/v1/pool")[2]["members"])

    def cut(self, cut):
        check(self.call("POST", "/v1/pool/links", {"cut": cut})[0] == 200, "links are cut on demand")

    def session(self):
        return self.call("GET", "/v1/collections")[1]["lamplight-session"]

    def holds(self, session):
        return self.call("GET", "/v1/collections", headers={"lamplight-session": session})[0] == 200

    def listing(self):
        return {doc["id"]: doc["version"] for doc in self.pages("/v1/docs/kept?limit=1000", "after", "docs")}

    def log(self):
        """Each op but for what only this node knows of it."""
        ops = self.pages("/v1/log?limit=1000", "since", "ops")
        return [(op["op"], op["stamp"], op["commands"]) for op in ops]

    def pages(self, path, after, name):
        found, place = [], ""
        while place is not None:
            status, _, page = self.call("GET", f"{path}{place}")
            check(status == 200, page)
            found += page[name]
            place = page["next"] and f"&{after}={page['next']}"
        return found


class Writers:
    """Clients that write until they are stopped or get no answer, and what they were told."""

    def __init__(self, nodes, prefix="doc"):
        self.ids, self.ops, self.refused, self.stopping = set(), [], {}, False
        self.lock = threading.Lock()
        work = [(nodes[n % len(nodes)], f"{prefix}-w{n}") for n in range(WRITERS)]
        self.threads = [threading.Thread(target=self.write, args=args, daemon=True) for args in work]
        for thread in self.threads:
            thread.start()

    def write(self, node, prefix):
        connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=30)
        n = 0
        while not self.stopping:
            n += 1
            try:
                status, _, body = node.call("PUT", f"/v1/docs/kept/{prefix}-{n}", {"n": n}, connection=connection)
            except (OSError, http.client.HTTPException):
                return
            with self.lock:
                if status == 201:
                    self.ids.add(f"{prefix}-{n}")
                    self.ops.append(body["op"])
                else:
                    self.refused[status] = self.refused.get(status, 0) + 1

    def stop(self):
        self.stopping = True
        for thread in self.threads:
            thread.join(PATIENCE_S)
        check(self.ids, "nothing was acknowledged")


# Small things.


def fill(path):
    """Takes all the space there is."""
    with open(path, "wb") as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
                file.flush()
                os.fsync(file.fileno())


def until(what, condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        check(time.monotonic() < end, f"not within {PATIENCE_S} s: {what}")
        time.sleep(0.05)


def check(holds, what):
    if not holds:
        raise AssertionError(what)


def end(process):
    process.kill()
    process.wait()


def run_anyway(*command):
    subprocess.run(command)


def sh(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
