#!/usr/bin/env python3
"""Texts on real nodes, edited by clients that no one here wrote (pycrdt and its provider), by raw frames, and over REST.

    tests/texts.py [--program PATH] [WORD...]

Runs the tests whose names hold one of the words, or all. Nothing sleeps for a fixed time: each step waits for a condition,
with a bounded patience. The last tests replay recorded editing sessions and print their figures.
"""

import argparse
import contextlib
import gzip
import http.client
import inspect
import json
import pathlib
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import anyio
import httpx
import websocket
from httpx_ws import aconnect_ws
from pycrdt import Awareness, Doc, Provider, Text, read_message
from pycrdt.websocket.websocket import HttpxWebsocket

ROOT = pathlib.Path(__file__).resolve().parent.parent
TRACES = ROOT / "tests" / "fixtures" / "editing-traces"
PATIENCE_S = 60
LOOK_EVERY_S = 0.02


def until(condition, sentence, patience_s=PATIENCE_S):
    """Waits for a condition and returns its value."""
    end = time.monotonic() + patience_s
    while True:
        if value := condition():
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {patience_s} s: {sentence}")
        time.sleep(LOOK_EVERY_S)


async def soon(condition, sentence, patience_s=PATIENCE_S):
    """The same, where clients run beside."""
    end = time.monotonic() + patience_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {patience_s} s: {sentence}")
        await anyio.sleep(LOOK_EVERY_S)


# ---- Nodes ----


class Node:
    """A node, and requests to it."""

    def __init__(self, name, port, process):
        self.name, self.port, self.process = name, port, process
        self.url = f"http://127.0.0.1:{port}"
        self.yjs = f"ws://127.0.0.1:{port}/v1/yjs"

    def call(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, dict((k.lower(), v) for k, v in answer.getheaders()), answer.read()

    def ok(self, method, path, body=None, headers=None):
        status, heads, content = self.call(method, path, body, headers)
        assert status < 400, f"{method} {path} on {self.name}: {status} {content}"
        return heads, content

    def text(self, doc):
        status, _, content = self.call("GET", f"/v1/docs/{doc}", headers={"Accept": "text/plain"})
        return content.decode() if status == 200 else None

    def cut(self, cut):
        self.ok("POST", "/v1/pool/links", json.dumps({"cut": cut}), {"Content-Type": "application/json"})

    def pool(self):
        return json.loads(self.ok("GET", "/v1/pool")[1])

    def resident_kb(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def free_ports(count):
    while True:
        first = random.randrange(20_000, 32_000)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


@contextlib.contextmanager
def pool(program, count=3):
    """So many linked nodes."""
    first = free_ports(count)
    with contextlib.ExitStack() as stack:
        nodes = []
        for place in range(count):
            port = first + place
            command = [program, "serve", "--memory", "--listen", f"127.0.0.1:{port}", "--name", "abc"[place]]
            command += ["--join", nodes[0].url] if nodes else ["--found"]
            output = stack.enter_context(tempfile.TemporaryFile())
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            node = Node("abc"[place], port, process)
            nodes.append(node)

            def ready(node=node):
                with contextlib.suppress(OSError):
                    return node.call("GET", "/readyz")[0] == 200

            until(ready, f"{node.name} is ready")
        for node in nodes:
            linked = lambda node=node: sum(m["link"] == "linked" for m in node.pool()["members"]) == count - 1
            until(linked, f"{node.name} is linked")
        yield nodes


# ---- Editors ----


@contextlib.asynccontextmanager
async def editor(node, room):
    """A pycrdt document that its own provider keeps in step with a node."""
    doc = Doc()
    text = doc.get("text", type=Text)
    async with aconnect_ws(f"{node.yjs}/{room}", httpx.AsyncClient(), max_message_size_bytes=8 << 20) as ws:
        async with Provider(doc, HttpxWebsocket(ws, room)) as provider:
            with anyio.fail_after(PATIENCE_S):
                await provider.synced.wait()
            yield text


class Page:
    """An editor as a page has it: our own JavaScript, in Node."""

    def __init__(self, node, room):
        self.run("text_editor.mjs", node.url, *room.split("/"))

    def run(self, program, *arguments):
        command = ["node", "--no-warnings", "--experimental-websocket", str(ROOT / "tests" / program)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([*command, *arguments], stdin=pipe, stdout=pipe, text=True)

    def __call__(self, *command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def __str__(self):
        return self("read")["text"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


class YWebsocket(Page):
    """An editor with y-websocket itself."""

    def __init__(self, node, room):
        self.run("y_websocket.mjs", node.yjs, room)


class Raw:
    """A connection of bare frames."""

    def __init__(self, node, room):
        self.socket = websocket.create_connection(f"{node.yjs}/{room}", timeout=PATIENCE_S, enable_multithread=True)

    def send(self, *frames):
        for frame in frames:
            self.socket.send_binary(bytes(frame))

    def closed(self):
        """The code and reason with which the node closes, or says beforehand that it will."""
        while True:
            opcode, frame = self.socket.recv_data()
            if end := ended(opcode, frame):
                self.socket.close()
                return end


def ended(opcode, frame):
    """What a frame says of the end of its connection: code and reason."""
    if opcode == websocket.ABNF.OPCODE_CLOSE:
        return int.from_bytes(frame[:2], "big"), frame[2:].decode()
    if frame[:2] == b"\x02\x00":
        code, _, reason = read_message(frame[2:]).decode().partition(" ")
        return int(code), reason


def number(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def sync(step, content):
    return bytes([0, step]) + number(len(content)) + content


# ---- Tests ----


def test_two_editors_on_two_nodes_see_each_other(program):
    async def run(a, b):
        async with editor(a, "notes/x") as one, editor(b, "notes/x") as other:
            one += "Hello"
            await soon(lambda: str(other) == "Hello", "b sees what a typed")
            other.insert(5, ", wörld 😀")
            await soon(lambda: str(one) == "Hello, wörld 😀", "a sees what b typed")
            await soon(lambda: a.text("notes/x") == b.text("notes/x") == str(one), "REST reads it on both")

    with pool(program, 2) as (a, b):
        anyio.run(run, a, b)
        assert json.loads(a.ok("GET", "/v1/docs/notes/x", headers={"Accept": "application/json"})[1]) == {
            "ops": [{"insert": "Hello, wörld 😀"}]
        }


def test_both_sides_of_a_partition_type_and_keep_what_they_typed(program):
    async def run(a, b, c):
        async with editor(a, "notes/x") as one, editor(b, "notes/x") as other:
            one += "[]"
            await soon(lambda: str(other) == "[]", "b sees the beginning")
            c.cut(True), b.cut(True), a.cut(True)
            one.insert(1, "left")
            other.insert(1, "right")
            await soon(lambda: a.text("notes/x") == "[left]" and b.text("notes/x") == "[right]", "each side has its own")
            for node in (a, b, c):
                node.cut(False)
            await soon(lambda: str(one) == str(other) and len(str(one)) == 11, "both have both")
            assert "left" in str(one) and "right" in str(one), str(one)
            await soon(lambda: {n.text("notes/x") for n in (a, b, c)} == {str(one)}, "all nodes read the same")

    with pool(program) as nodes:
        anyio.run(run, *nodes)


def test_what_was_typed_without_a_connection_comes_later(program):
    async def run(a, b):
        doc = Doc()
        text = doc.get("text", type=Text)
        text += "offline"
        async with aconnect_ws(f"{a.yjs}/notes/x", httpx.AsyncClient()) as ws:
            async with Provider(doc, HttpxWebsocket(ws, "notes/x")) as provider:
                await provider.synced.wait()
                await soon(lambda: b.text("notes/x") == "offline", "it is there")
        before = b.pool()["ops"]
        # It connects again, to another node, and sends nothing new.
        async with aconnect_ws(f"{b.yjs}/notes/x", httpx.AsyncClient()) as ws:
            async with Provider(doc, HttpxWebsocket(ws, "notes/x")) as provider:
                await provider.synced.wait()
                text += "!"
                await soon(lambda: a.text("notes/x") == "offline!", "the next edit is there")
        assert int(b.pool()["ops"]) == int(before) + 1, "nothing was sent twice"

    with pool(program, 2) as nodes:
        anyio.run(run, *nodes)


def test_random_edits_of_many_under_partitions_converge(program, rounds=150):
    seed = random.randrange(1 << 32)
    print(f"    seed {seed}")
    rng = random.Random(seed)
    pieces = ["a", "bc", "ä", "😀", "x😀y", "line\n", "", "𝔘𝔫𝔦", "z" * 1000]

    def edit(text):
        if isinstance(text, Page):
            text("edit", rng.random(), rng.choice((0, 0, 1, 3)), rng.choice(pieces))
            return
        # pycrdt counts in UTF-8 bytes; an edit begins and ends between characters.
        at = rng.randrange(len(str(text)) + 1)
        byte = len(str(text)[:at].encode())
        if rng.random() < 0.3 and at < len(str(text)):
            gone = str(text)[at : at + rng.randrange(1, 4)]
            del text[byte : byte + len(gone.encode())]
        else:
            text.insert(byte, rng.choice(pieces))

    def delta(node):
        heads, content = node.ok("GET", "/v1/docs/notes/x", headers={"Accept": "text/plain"})
        text = content.decode()
        at = rng.randrange(len(text) + 1)
        steps = [{"retain": len(text[:at].encode("utf-16-le")) // 2}] if at else []
        if rng.random() < 0.3 and at < len(text):
            steps.append({"delete": len(text[at].encode("utf-16-le")) // 2})
        else:
            steps.append({"insert": rng.choice(pieces) or "."})
        heads = {"Content-Type": "application/json", "If-Match": heads["etag"]}
        status, _, content = node.call("PATCH", "/v1/docs/notes/x", json.dumps(steps), heads)
        assert status in (200, 412), (status, content)

    async def run(nodes):
        async with contextlib.AsyncExitStack() as stack:
            texts = [await stack.enter_async_context(editor(node, "notes/x")) for node in nodes for _ in range(2)]
            texts += [stack.enter_context(Page(node, "notes/x")) for node in nodes for _ in range(2)]
            texts[0] += "begin"
            await soon(lambda: all(str(text) == "begin" for text in texts), "all begin alike")
            for turn in range(rounds):
                edit(rng.choice(texts))
                if turn % 10 == 0:
                    await anyio.to_thread.run_sync(delta, rng.choice(nodes))
                if turn % 40 == 10:
                    rng.choice(nodes).cut(True)
                if turn % 40 == 35:
                    [node.cut(False) for node in nodes]
                await anyio.sleep(0)
            [node.cut(False) for node in nodes]
            await soon(lambda: len({str(text) for text in texts}) == 1, "all editors have one text")
            same = lambda: {node.text("notes/x") for node in nodes} == {str(texts[0])}
            await soon(same, "all nodes read what the editors have")

    with pool(program) as nodes:
        anyio.run(run, nodes)


def test_a_huge_insert_reaches_the_other_node(program):
    async def run(a, b):
        async with editor(a, "notes/x") as one, editor(b, "notes/x") as other:
            one += "h" * (1 << 20)
            await soon(lambda: len(str(other)) == 1 << 20, "a MiB is there")
            one += "h" * (1 << 20)
            one += "end"

    with pool(program, 2) as (a, b):
        with contextlib.suppress(Exception):
            anyio.run(run, a, b)
        assert len(a.text("notes/x")) == 1 << 20, "what is too much is refused whole"
        raw = Raw(a, "notes/y")
        doc = Doc()
        doc.get("text", type=Text).insert(0, "h" * (2 << 20))
        raw.send(sync(2, doc.get_update()))
        code, reason = raw.closed()
        assert code == 4413 and "bytes" in reason, (code, reason)


def test_bad_frames_end_only_their_own_connection(program):
    async def run(a, b):
        a.ok("PUT", "/v1/docs/notes/json", "{}", {"Content-Type": "application/json"})
        async with editor(a, "notes/x") as one, editor(b, "notes/x") as other:
            one += "good"
            for frame, code in (
                (sync(2, b"no update"), 4400),
                (sync(2, bytes.fromhex("8e809e44")), 4400),
                (sync(0, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff"), 4400),
                (b"\x00\x02\xff\x00", 4400),
                (b"\x09", 4400),
            ):
                raw = Raw(a, "notes/x")
                raw.send(frame)
                got = raw.closed()
                assert got[0] == code and got[1], (frame, got)
            # One that waits for what never comes, and would make every encoding fail.
            raw = Raw(a, "notes/x")
            raw.send(sync(2, bytes.fromhex("0101010552c4340101010206 7331f09f98800101010101".replace(" ", ""))))
            raw.socket.send("text")
            assert raw.closed()[0] == 4400
            # One that goes on sending, unread, is told all the same.
            raw = Raw(a, "notes/x")
            raw.send(b"\x09")
            for _ in range(200):
                raw.send(sync(0, bytes(4_000)))
            assert raw.closed()[0] == 4400
            assert Raw(a, "notes/json").closed()[0] == 4409
            one += " still"
            await soon(lambda: str(other) == "good still", "the others go on")
            assert a.text("notes/x") == "good still"

    with pool(program, 2) as nodes:
        anyio.run(run, *nodes)


def test_editors_of_a_text_that_is_deleted_are_told(program):
    with pool(program, 2) as (a, b):
        raw = Raw(b, "notes/x")
        a.ok("PUT", "/v1/docs/notes/x", "text", {"Content-Type": "text/plain"})
        until(lambda: b.text("notes/x") == "text", "b has it")
        a.ok("DELETE", "/v1/docs/notes/x")
        code, reason = raw.closed()
        assert code == 4410 and "deleted" in reason, (code, reason)
        until(lambda: b.text("notes/x") is None, "it is gone")


def come_back(node, room, doc):
    """Connects as an editor does that was away: asks, and is asked. The close code, or none once both have the same."""
    raw, answered = Raw(node, room), False
    raw.send(sync(0, doc.get_state()))
    while True:
        opcode, frame = raw.socket.recv_data()
        if end := ended(opcode, frame):
            raw.socket.close()
            return end[0]
        if frame[:2] == b"\x00\x00":
            update = doc.get_update(read_message(frame[2:]))
        elif frame[:2] == b"\x00\x01" and not answered:
            doc.apply_update(read_message(frame[2:]))
            # What is asked behind the answer is answered once that has been taken.
            raw.send(sync(1, update), sync(0, doc.get_state()))
            answered = True
        elif frame[:2] in (b"\x00\x01", b"\x00\x02"):
            doc.apply_update(read_message(frame[2:]))
            if answered and frame[1] == 1:
                raw.socket.close()
                return None


def opened(node, room):
    """A document as an editor of this text holds it."""
    doc = Doc()
    doc.get("text", type=Text)
    assert come_back(node, room, doc) is None
    return doc


def typed(doc, words):
    """The same document, after more was typed into it."""
    copy = Doc()
    text = copy.get("text", type=Text)
    copy.apply_update(doc.get_update())
    text += words
    return copy


PLAIN = {"Content-Type": "text/plain"}


def test_a_text_that_was_deleted_does_not_come_back_with_an_editor_that_was_away(program):
    with pool(program) as (a, b, c):
        a.ok("PUT", "/v1/docs/notes/x", "the first text", PLAIN)
        until(lambda: b.text("notes/x") == "the first text", "b has it")
        away = opened(b, "notes/x")
        busy = typed(away, ", and more")
        a.ok("DELETE", "/v1/docs/notes/x?wait=final")
        for node in (b, c, a):
            until(lambda: node.text("notes/x") is None, "it is gone")
            for doc in (away, busy):
                assert come_back(node, "notes/x", doc) == 4410
            # An update alone, of one that says nothing of what it holds.
            raw = Raw(node, "notes/x")
            raw.send(sync(2, busy.get_update()))
            assert raw.closed()[0] == 4410
            assert node.text("notes/x") is None, "what was deleted is back"
        # The same id, begun again: what is deleted does not come into it, and others edit it.
        b.ok("PUT", "/v1/docs/notes/x", "the second text", PLAIN)
        for node in (b, c, a):
            until(lambda: node.text("notes/x") == "the second text", "the new one is there")
            for doc in (away, busy):
                before = str(doc.get("text", type=Text))
                assert come_back(node, "notes/x", doc) == 4410
                assert str(doc.get("text", type=Text)) == before, "it keeps its own text, and nothing else"
        late = typed(opened(c, "notes/x"), "!")
        assert come_back(a, "notes/x", late) is None
        until(lambda: b.text("notes/x") == "the second text!", "the new text is edited")
        # In the place of JSON again.
        a.ok("PUT", "/v1/docs/notes/x", "{}", {"Content-Type": "application/json"})
        a.ok("PUT", "/v1/docs/notes/x", "the third text", PLAIN)
        until(lambda: c.text("notes/x") == "the third text", "the third is there")
        assert {come_back(c, "notes/x", doc) for doc in (away, busy, late)} == {4410}
        assert a.text("notes/x") == "the third text"


def test_a_client_id_is_used_again_in_a_new_document_under_the_same_id(program):
    with pool(program, 2) as (a, b):
        for round, (here, there) in enumerate([(a, b), (b, a), (a, b)]):
            doc = Doc(client_id=7)
            text = doc.get("text", type=Text)
            text += f"round {round}"
            # The second time it gets what its node made of the first.
            assert come_back(here, "notes/x", doc) is None
            until(lambda: there.text("notes/x") == str(text), "the other node has it")
            assert come_back(there, "notes/x", doc) is None
            there.ok("DELETE", "/v1/docs/notes/x?wait=final")
            assert {come_back(node, "notes/x", doc) for node in (here, there)} == {4410}


@contextlib.contextmanager
def kept(program, name, port, data, *more):
    """A node that keeps its data in a directory, and forgets operations as soon as it may."""
    command = [program, "serve", "--data", data, "--listen", f"127.0.0.1:{port}", "--name", name, "--retain-ops", "0", *more]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            node = Node(name, port, process)
            until(lambda: answers(node), f"{name} is ready")
            yield node
        finally:
            process.terminate()
            process.wait()


def answers(node):
    with contextlib.suppress(OSError):
        return node.call("GET", "/readyz")[0] == 200


def test_what_was_deleted_is_known_after_a_restart_and_to_a_newcomer_that_has_no_operation_of_it(program):
    with tempfile.TemporaryDirectory() as root:
        first = free_ports(2)
        with kept(program, "a", first, f"{root}/a", "--found") as a:
            for name in ("gone", "replaced", "there"):
                a.ok("PUT", f"/v1/docs/notes/{name}", name, PLAIN)
            # Behind these edits the first operation is forgotten, and the text is what stands in a snapshot.
            docs = {name: opened(a, f"notes/{name}") for name in ("gone", "replaced", "there")}
            a.ok("DELETE", "/v1/docs/notes/gone?wait=final")
            a.ok("PUT", "/v1/docs/notes/replaced", "{}", {"Content-Type": "application/json"})
            a.ok("PUT", "/v1/docs/notes/replaced", "another", PLAIN)
            until(lambda: int(a.pool()["kept"]["ops"]) < int(a.pool()["ops"]), "operations are forgotten")
            until(lambda: int(a.pool()["kept"]["ops"]) == 0, "all of them are")
        with kept(program, "a", first, f"{root}/a") as a:
            with kept(program, "b", first + 1, f"{root}/b", "--join", a.url) as b:
                for node in (b, a):
                    assert come_back(node, "notes/gone", docs["gone"]) == 4410
                    assert come_back(node, "notes/replaced", docs["replaced"]) == 4410
                assert come_back(b, "notes/there", typed(docs["there"], " still")) is None
                until(lambda: a.text("notes/there") == "there still", "what was not deleted goes on")
                assert (a.text("notes/gone"), a.text("notes/replaced")) == (None, "another")


def test_an_editor_that_was_away_brings_what_it_typed_to_any_node(program):
    with pool(program) as (a, b, c):
        a.ok("PUT", "/v1/docs/notes/x", "one", PLAIN)
        away = typed(opened(a, "notes/x"), ", two")
        # Of the other text this side has heard nothing, and its editor comes over.
        [node.cut(True) for node in (a, b, c)]
        a.ok("PUT", "/v1/docs/notes/y", "left", PLAIN)
        moved = typed(opened(a, "notes/y"), ", right")
        assert come_back(b, "notes/y", moved) is None
        assert b.text("notes/y") == "left, right"
        [node.cut(False) for node in (a, b, c)]
        until(lambda: a.text("notes/y") == c.text("notes/y") == "left, right", "it is one text")
        assert come_back(c, "notes/x", away) is None
        until(lambda: a.text("notes/x") == "one, two", "what it typed is there")
        # A text that begins in an editor is that editor's as well.
        own = typed(Doc(), "mine")
        assert come_back(b, "notes/z", own) is None
        assert come_back(b, "notes/z", typed(own, "!")) is None
        until(lambda: c.text("notes/z") == "mine!", "its text goes on")


class Watcher:
    """An editor that only follows who is there, as pycrdt's own `Awareness` understands it."""

    def __init__(self, node, room):
        self.awareness, self.raw = Awareness(Doc()), Raw(node, room)
        threading.Thread(target=self.follow, daemon=True).start()

    def follow(self):
        with contextlib.suppress(Exception):
            while True:
                frame = self.raw.socket.recv()
                if frame[:1] == b"\x01":
                    self.awareness.apply_awareness_update(read_message(frame[1:]), "node")

    def show(self, state):
        self.awareness.set_local_state(state)
        states = self.awareness.encode_awareness_update([self.awareness.client_id])
        self.raw.send(b"\x01" + number(len(states)) + states)

    def others(self):
        return [state for client, state in self.awareness.states.items() if client != self.awareness.client_id]


def test_editors_see_who_else_is_there_until_they_leave(program):
    with pool(program) as (a, b, c):
        one, other, third = Watcher(a, "notes/x"), Watcher(b, "notes/x"), Watcher(c, "notes/x")
        ada = {"user": {"name": "Ada", "color": "#a00"}, "cursor": None}
        one.show(ada)
        until(lambda: other.others() == [ada] and third.others() == [ada], "b and c see Ada")
        other.show({"user": {"name": "Ben"}})
        until(lambda: one.others() == [{"user": {"name": "Ben"}}], "a sees Ben")
        until(lambda: len(third.others()) == 2, "c sees both")
        late = Watcher(a, "notes/x")
        until(lambda: len(late.others()) == 2, "one who comes later is told of both")
        assert Watcher(a, "notes/y").others() == [], "another text is another room"
        one.show({"user": {"name": "Ada"}, "cursor": {"anchor": {"tname": "text"}}})
        until(lambda: any("cursor" in state and state["cursor"] for state in third.others()), "c sees Ada's cursor")
        one.raw.socket.sock.shutdown(socket.SHUT_RDWR)
        until(lambda: other.others() == [], "Ada is gone when her connection is")
        b.process.kill()
        until(lambda: third.others() == [], "Ben is gone when his node is")


def test_awareness_that_is_wrong_ends_only_its_own_connection(program):
    with pool(program, 2) as (a, b):
        watcher, good = Watcher(b, "notes/x"), Watcher(a, "notes/x")
        good.show({"user": {"name": "Ada"}})
        for states in (b"\xff", b"\x01\x05\x01\x02{x"):
            raw = Raw(a, "notes/x")
            raw.send(b"\x01" + number(len(states)) + states)
            got = raw.closed()
            assert got[0] == 4400 and got[1], (states[:20], got)
        # One that is too large is not shown, and its editor goes on.
        good.show({"user": {"name": "x" * 5000}})
        good.show({"user": {"name": "still here"}})
        until(lambda: watcher.others() == [{"user": {"name": "still here"}}], "the others go on")


def test_y_websocket_that_was_away_brings_what_was_typed_but_not_what_was_deleted(program):
    with pool(program, 2) as (a, b), YWebsocket(a, "notes/x") as away, YWebsocket(b, "notes/x") as other:
        away("type", "one")
        until(lambda: str(other) == "one", "b's editor sees it")
        away("disconnect")
        away("type", ", two")
        away("connect")
        until(lambda: str(other) == "one, two", "what was typed without a connection is there")
        away("disconnect")
        away("type", ", three")
        b.ok("DELETE", "/v1/docs/notes/x?wait=final")
        b.ok("PUT", "/v1/docs/notes/x", "new", PLAIN)
        until(lambda: a.text("notes/x") == "new", "a has the new one")
        away("connect")
        until(lambda: 4410 in away("read")["closes"] and 4410 in other("read")["closes"], "both are told")
        until(lambda: away("read")["connects"] > 4, "it goes on to ask")
        assert (str(away), str(other)) == ("one, two, three", "one, two"), "each keeps its own text"
        assert a.text("notes/x") == "new"


def test_y_websocket_that_shows_too_much_goes_on(program):
    with pool(program, 2) as (a, b), YWebsocket(a, "notes/x") as one, YWebsocket(b, "notes/x") as other:
        one("show", {"user": {"name": "x" * 5_000}})
        one("type", "typed")
        until(lambda: str(other) == "typed", "its edits are taken")
        one("show", {"user": {"name": "Ada"}})
        until(lambda: other("others") == [{"user": {"name": "Ada"}}], "it is seen once it shows less")
        assert (one("read")["closes"], one("read")["connects"]) == ([], 1)


def test_y_websocket_that_is_refused_again_and_again_does_not_come_back_all_the_time(program):
    with pool(program, 1) as (a,):
        a.ok("PUT", "/v1/docs/notes/json", "{}", {"Content-Type": "application/json"})
        with YWebsocket(a, "notes/json") as json_editor, YWebsocket(a, "notes/full") as full:
            until(lambda: full("read")["synced"], "it is there")
            began = time.monotonic()
            full("type", "x" * (2 << 20))
            for editor, code in ((json_editor, 4409), (full, 4413)):
                until(lambda: len(editor("read")["closes"]) >= 4, "it came back")
                # By itself it comes back after a tenth of a second. However slow this machine is, it takes no less than the node says.
                assert time.monotonic() - began > 5, editor("read")
                read = editor("read")
                assert set(read["closes"]) == {code}, read
                assert any(f"\n{code} " in warning for warning in read["warnings"]), read
            # Of another text it is told at once, and the others edit this one.
            began = time.monotonic()
            a.ok("PUT", "/v1/docs/notes/other", "{}", {"Content-Type": "application/json"})
            assert Raw(a, "notes/other").closed()[0] == 4409
            assert come_back(a, "notes/full", Doc()) is None


# ---- Recorded sessions ----


def recorded(name):
    with gzip.open(TRACES / f"{name}.json.gz") as file:
        return json.load(file)


def sync_reader(raw, doc, done):
    """Puts what comes into a document, until `done` says so."""
    while not done():
        frame = raw.socket.recv()
        if frame[:2] in (b"\x00\x01", b"\x00\x02"):
            doc.apply_update(read_message(frame[2:]))


def drained(raw):
    with contextlib.suppress(Exception):
        while True:
            raw.socket.recv()


def all_of(doc):
    return clocks(doc.get_state()).items()


def session_of_one(program, name):
    trace = recorded(name)
    began = time.monotonic()
    updates, doc = [], Doc()
    text = doc.get("text", type=Text)
    subscription = doc.observe(lambda event: updates.append(event.update))
    for txn in trace["txns"]:
        with doc.transaction():
            for at, gone, written in txn["patches"]:
                if gone:
                    del text[at : at + gone]
                if written:
                    text.insert(at, written)
    doc.unobserve(subscription)
    assert str(text) == trace["endContent"]
    made_s = time.monotonic() - began
    began = time.monotonic()
    plain = Doc()
    plain.get("text", type=Text)
    [plain.apply_update(update) for update in updates]
    plain_s = time.monotonic() - began
    with pool(program, 2) as (a, b):
        resident = a.resident_kb(), b.resident_kb()
        raw, reader, copy = Raw(a, "papers/x"), Raw(b, "papers/x"), Doc()
        copied = copy.get("text", type=Text)
        whole = len(trace["endContent"])
        reader.send(sync(0, copy.get_state()))
        thread = threading.Thread(target=sync_reader, args=(reader, copy, lambda: all_of(doc) <= clocks(copy.get_state()).items()))
        thread.start()
        began = time.monotonic()
        # What it typed comes back to it, too: who does not read is cut off.
        threading.Thread(target=drained, args=(raw,), daemon=True).start()
        for update in updates:
            raw.send(sync(2, update))
        sent_s = time.monotonic() - began
        thread.join(PATIENCE_S * 4)
        read_s = time.monotonic() - began
        assert str(copied) == trace["endContent"], "the reader has the recorded text"
        until(lambda: b.text("papers/x") == trace["endContent"], "REST reads it on the other node")
        kept, ops = a.pool()["kept"], a.pool()["ops"]
        resident = a.resident_kb() - resident[0], b.resident_kb() - resident[1]
    print(f"    {name}: {len(updates)} edits, {whole} characters; made by pycrdt in {made_s:.1f} s")
    print(f"    plain yrs (pycrdt) takes the updates in {plain_s:.1f} s, {sum(map(len, updates))} bytes of them")
    print(f"    sent to one node in {sent_s:.1f} s, all read on another after {read_s:.1f} s ({read_s / plain_s:.1f} times plain)")
    print(f"    {ops} ops, log {kept['bytes']} bytes, nodes {resident[0]} and {resident[1]} KiB larger, state {len(doc.get_update())} bytes")


def test_trace_of_a_paper(program):
    session_of_one(program, "automerge-paper")


def session_of_several(program, name):
    """Each author on a node of its own. What an edit builds on its author has read from its node before it sends it."""
    trace = recorded(name)
    txns, agents = trace["txns"], trace["numAgents"]
    docs = [Doc(client_id=agent + 1) for agent in range(agents)]
    texts = [doc.get("text", type=Text) for doc in docs]
    last = []
    [doc.observe(lambda event: last.append(event.update)) for doc in docs]
    # Of each transaction: its update, and how many of each author's it builds on.
    updates, bases, counts = [], [], []
    applied = [[0] * agents for _ in range(agents)]
    mine = [[] for _ in range(agents)]
    # The clock of each author after so many transactions of its own.
    ends = [[0] for _ in range(agents)]
    for txn in txns:
        me = txn["agent"]
        base = [0] * agents
        for parent in txn["parents"]:
            base = [max(one, other) for one, other in zip(base, counts[parent])]
        for other in range(agents):
            for at in range(applied[me][other], base[other]) if other != me else ():
                docs[me].apply_update(updates[mine[other][at]])
            applied[me][other] = max(applied[me][other], base[other])
        last.clear()
        with docs[me].transaction():
            for at, gone, written in txn["patches"]:
                if gone:
                    del texts[me][at : at + gone]
                if written:
                    texts[me].insert(at, written)
        updates.append(last[-1])
        mine[me].append(len(updates) - 1)
        ends[me].append(clocks(docs[me].get_state()).get(me + 1, 0))
        bases.append(base)
        counts.append([len(mine[me]) if other == me else base[other] for other in range(agents)])
    with pool(program, agents) as nodes:
        began = time.monotonic()
        failed = []

        def author(me):
            try:
                raw, copy = Raw(nodes[me], "chats/x"), Doc()
                text = copy.get("text", type=Text)
                raw.send(sync(0, copy.get_state()))
                sent = 0
                while str(text) != trace["endContent"] or sent < len(mine[me]):
                    held = clocks(copy.get_state())
                    while sent < len(mine[me]) and may_send(held, mine[me][sent]):
                        raw.send(sync(2, updates[mine[me][sent]]))
                        copy.apply_update(updates[mine[me][sent]])
                        sent += 1
                    if str(text) == trace["endContent"] and sent == len(mine[me]):
                        break
                    frame = raw.socket.recv()
                    if frame[:2] in (b"\x00\x01", b"\x00\x02"):
                        copy.apply_update(read_message(frame[2:]))
            except Exception as error:
                failed.append(error)
                traceback.print_exc()

        def may_send(held, txn):
            return all(held.get(other + 1, 0) >= ends[other][bases[txn][other]] for other in range(agents) if other != txns[txn]["agent"])

        threads = [threading.Thread(target=author, args=(me,)) for me in range(agents)]
        [thread.start() for thread in threads]
        [thread.join(PATIENCE_S * 4) for thread in threads]
        assert not failed and not any(thread.is_alive() for thread in threads), "an author did not come to the end"
        took_s = time.monotonic() - began
        same = lambda: {node.text("chats/x") for node in nodes} == {trace["endContent"]}
        until(same, "all nodes read the recorded text")
    print(f"    {name}: {len(txns)} transactions of {agents} authors on as many nodes, the recorded text everywhere after {took_s:.1f} s")


def clocks(state):
    """How much of each client a state vector says is there."""
    numbers, value, shift = [], 0, 0
    for byte in state:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value)
            value = shift = 0
    return dict(zip(numbers[1::2], numbers[2::2]))


def test_trace_of_two_friends(program):
    session_of_several(program, "friendsforever")


def test_trace_of_a_school(program):
    session_of_several(program, "clownschool")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", default=str(ROOT / "target" / "debug" / "lamplight"))
    parser.add_argument("words", nargs="*")
    arguments = parser.parse_args()
    tests = [(name, test) for name, test in globals().items() if name.startswith("test_")]
    chosen = [(n, t) for n, t in tests if not arguments.words or any(word in n for word in arguments.words)]
    failed = 0
    for name, test in chosen:
        began = time.monotonic()
        try:
            test(arguments.program)
            print(f"ok     {name} ({time.monotonic() - began:.1f} s)", flush=True)
        except Exception:
            failed += 1
            traceback.print_exc()
            print(f"FAILED {name}", flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    sys.exit(failed > 0)


main()
