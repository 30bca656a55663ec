#!/usr/bin/env python3
"""The page's text module beside real Yjs peers: random edits, exchanged in any order, must end in the same text.

Each round has two to four peers, some of them texts of static/text.js in a Node process, the others pycrdt documents
(yrs). They edit at random, and updates reach them late, twice, and out of order. In the end all must hold the same text
and formatting, each must read what another encodes, and positions must mean the same place. Broken bytes are thrown at
the JavaScript texts too, which must refuse them unchanged.

    target/venv/bin/python tests/text_fuzz.py [--rounds N] [--seed N]

A failure prints the seed of its round; `--seed` with it and `--rounds 1` runs that round again.
"""

import argparse
import contextlib
import json
import pathlib
import random
import select
import subprocess
import sys
import time

from pycrdt import Array, Assoc, Doc, Map, StickyIndex, Text, XmlElement, XmlFragment, XmlText

HERE = pathlib.Path(__file__).resolve().parent
# A guard against hanging only: an answer takes milliseconds.
PATIENCE_S = 30
EMBED = "\ufffc"
LOW_SURROGATES = (b"\xdc", b"\xdd", b"\xde", b"\xdf")
PIECES = ["a", "b", "xyz", " ", "\n", "\r\n", "é", "漢字", "😀", "👩‍👩‍👧", "\ufeff", "\0", "𝔘𝔫𝔦", "e\u0301", "word word ", ""]

# Both broke yrs: the one costs it 264 MB, the other lets every later encoding panic.
HAZARDS = ["8e809e44", "0101010552c43401010102067331f09f98800101010101"]
# Inserts an emoji, and deletes the first half of its surrogate pair.
CUT_PAIR = "0101010004010474657874" + "04f09f9880" + "0101010001"


class Failure(Exception):
    pass


# ---- Peers ----


class Node:
    """The Node process that holds the JavaScript peers."""

    def __init__(self):
        command = ["node", str(HERE / "text_peer.mjs")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.rest = b""

    def close(self):
        self.process.kill()
        self.process.wait()

    def ask(self, *command):
        """The answer as it is: `ok`, or `broken`, or `error`."""
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        end = time.monotonic() + PATIENCE_S
        while b"\n" not in self.rest:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise Failure(f"no answer within {PATIENCE_S} s to {str(command)[:2000]}")
            chunk = self.process.stdout.read(1 << 20)
            if not chunk:
                raise Failure(f"Node ended at {str(command)[:2000]}")
            self.rest += chunk
        line, self.rest = self.rest.split(b"\n", 1)
        answer = json.loads(line)
        if "error" in answer:
            raise Failure(f"{str(command)[:2000]}: {answer['error']}")
        return answer

    def call(self, *command):
        answer = self.ask(*command)
        if "broken" in answer:
            raise Failure(f"{str(command)[:2000]} was refused: {answer['broken']}")
        return answer["ok"]


class JavaScriptPeer:
    def __init__(self, node, name):
        self.node = node
        self.name = name
        node.call("open", name, None)

    def close(self):
        self.node.call("close", self.name)

    def apply(self, update):
        self.node.call("apply", self.name, update.hex())

    def state(self, vector=b""):
        return self.node.call("state", self.name, vector.hex())

    def vector(self):
        return bytes.fromhex(self.state()["vector"])

    def update(self, vector=b""):
        return bytes.fromhex(self.state(vector)["update"])

    def shown(self):
        return self.state()["shown"]

    def edit(self, rng):
        length = self.state()["length"]
        if rng.random() < 0.1:
            return self.updates(rng.choice(["undo", "redo"]))
        index = rng.randint(0, length)
        removed = min(length - index, rng.choice([0, 0, 0, 1, 2, 5, 40]))
        return self.updates("replace", index, removed, some_text(rng))

    def updates(self, command, *values):
        return [bytes.fromhex(update) for update in self.node.call(command, self.name, *values)]

    def position(self, index, assoc):
        return self.node.call("position", self.name, index, assoc)

    def resolve(self, position):
        return self.node.call("resolve", self.name, position)


class YrsPeer:
    """pycrdt counts UTF-8 bytes, so that positions are translated here. An embed is one of either."""

    def __init__(self):
        self.doc = Doc()
        self.text = self.doc.get("text", type=Text)
        self.map = self.doc.get("map", type=Map)
        self.array = self.doc.get("array", type=Array)
        self.xml = self.doc.get("xml", type=XmlFragment)
        self.made = []
        self.subscription = self.doc.observe(lambda event: self.made.append(event.update))

    def close(self):
        self.doc.unobserve(self.subscription)

    def apply(self, update):
        self.doc.apply_update(update)
        self.made.clear()

    def vector(self):
        return self.doc.get_state()

    def update(self, vector=b"\0"):
        return self.doc.get_update(vector or b"\0")

    def shown(self):
        return "".join(part if isinstance(part, str) else EMBED for part, _ in self.text.diff())

    def byte_places(self):
        """By index in UTF-16 units: the index in bytes, or None within a surrogate pair."""
        places = {0: 0}
        unit = byte = 0
        for part, _ in self.text.diff():
            for char in part if isinstance(part, str) else [None]:
                unit += 1 if char is None else len(char.encode("utf-16-le")) // 2
                byte += 1 if char is None else len(char.encode())
                places[unit] = byte
        return places

    def edit(self, rng):
        self.made.clear()
        with self.doc.transaction():
            for _ in range(rng.choice([1, 1, 1, 3])):
                if rng.random() < 0.75:
                    self.edit_text(rng)
                else:
                    self.edit_others(rng)
        made, self.made = self.made, []
        return made

    def edit_text(self, rng):
        places = sorted(self.byte_places().values())
        begin, end = sorted((rng.choice(places), rng.choice(places)))
        kind = rng.random()
        if kind < 0.5:
            self.text.insert(begin, some_text(rng))
        elif kind < 0.7:
            end = min(end, places[min(len(places) - 1, places.index(begin) + rng.randint(0, 6))])
            if end > begin:
                del self.text[begin:end]
        elif kind < 0.85:
            if end > begin:
                self.text.format(begin, end, {"bold": rng.choice([True, None]), "size": rng.randint(1, 3)})
        elif kind < 0.95:
            self.text.insert_embed(begin, {"image": rng.randint(0, 9)})
        else:
            self.text.insert(begin, some_text(rng), {"em": True})

    def edit_others(self, rng):
        key = rng.choice("pqr")
        value = rng.choice([1, -2.5, "s😀", True, None, [1, {"a": [2]}], {"k": "v"}, b"\0\xff", 2**40])
        match rng.randint(0, 9):
            case 0:
                self.map[key] = value
            case 1:
                self.map[key] = Map({"n": value, "t": Text("in😀ner")})
            case 2:
                if key in self.map:
                    del self.map[key]
            case 3:
                for _ in range(3):
                    self.array.insert(rng.randint(0, len(self.array)), value)
            case 4:
                self.array.append(Array([Map({"deep": Array([value])}), value]))
            case 5:
                if len(self.array) > 0:
                    del self.array[rng.randrange(len(self.array))]
            case 6:
                inner = self.map.get(key) if key in self.map else None
                if isinstance(inner, Map):
                    inner["x"] = value
                    if "t" in inner and isinstance(inner["t"], Text):
                        inner["t"].insert(0, some_text(rng))
            case 7:
                if len(self.array) > 0 and isinstance(self.array[-1], Array):
                    self.array[-1].append(value)
            case 8:
                element = self.xml.children.append(XmlElement("p", {"id": key}))
                element.children.append(XmlText("words"))
            case 9:
                if len(self.xml.children) > 0:
                    del self.xml.children[0]

    def others(self):
        return self.map.to_py(), self.array.to_py(), str(self.xml), self.text.diff()

    def position(self, index, assoc):
        assoc = Assoc.BEFORE if assoc < 0 else Assoc.AFTER
        return self.text.sticky_index(self.byte_places()[index], assoc).to_json()

    def resolve(self, position):
        byte = StickyIndex.from_json(position, self.text).get_index()
        return next((unit for unit, place in self.byte_places().items() if place == byte), None)


def some_text(rng):
    pieces = [piece for piece in PIECES if piece.isascii()] if rng.plain else PIECES
    return "".join(rng.choices(pieces, k=5000 if rng.random() < 0.02 else rng.randint(0, 4)))


# ---- A round ----


def run_round(node, seed):
    rng = random.Random(seed)
    rng.plain = rng.random() < 0.3
    kinds = ["js", rng.choice(["js", "yrs", "yrs"]), *(rng.choice(["js", "yrs"]) for _ in range(rng.randint(0, 2)))]
    peers = [JavaScriptPeer(node, str(place)) if kind == "js" else YrsPeer() for place, kind in enumerate(kinds)]
    with contextlib.ExitStack() as stack:
        for peer in peers:
            stack.callback(peer.close)
        exchange(rng, peers)
        agree(rng, node, peers)
        if rng.random() < 0.3:
            break_bytes(rng, node, peers)


def exchange(rng, peers):
    """Random edits; every update reaches every peer, at once or later, in any order and sometimes twice."""
    inboxes = {id(peer): [] for peer in peers}
    in_order = rng.random() < 0.3

    def deliver(peer):
        inbox = inboxes[id(peer)]
        update = inbox.pop(0 if in_order else rng.randrange(len(inbox)))
        peer.apply(update)
        if rng.random() < 0.1:
            peer.apply(update)

    for _ in range(rng.randint(3, 40)):
        editor = rng.choice(peers)
        for update in editor.edit(rng):
            for peer in peers:
                if peer is not editor:
                    inboxes[id(peer)].append(update)
        for peer in peers:
            while inboxes[id(peer)] and rng.random() < 0.4:
                deliver(peer)
        if rng.random() < 0.1:
            one, other = rng.sample(peers, 2)
            one.apply(other.update(one.vector()))
    lossy = rng.random() < 0.2
    for peer in peers:
        while inboxes[id(peer)]:
            if lossy and rng.random() < 0.3:
                inboxes[id(peer)].pop()
            else:
                deliver(peer)
    # What was lost, the exchange of state vectors brings.
    for _ in range(2 if lossy else 0):
        for one, other in zip(peers, peers[1:] + peers[:1]):
            one.apply(other.update(one.vector()))
            other.apply(one.update(other.vector()))
    # yrs forgets now and then to look at what waits, among its own kind too; being told once more wakes it.
    for peer in peers:
        if lossy or isinstance(peer, YrsPeer):
            for other in peers:
                peer.apply(other.update(peer.vector()))


def agree(rng, node, peers):
    shown = peers[0].shown()
    for peer in peers[1:]:
        equal(peer.shown(), shown, "the text of a peer")
    real = [peer for peer in peers if isinstance(peer, YrsPeer)]
    others = {id(peer): peer.others() for peer in real}
    for peer in peers:
        equal(state_vector(peer.vector()), state_vector(peers[0].vector()), "a state vector")
        if isinstance(peer, JavaScriptPeer):
            equal(peer.state()["waits"], False, "what still waits")
        # Both kinds of peer read what this one encodes.
        fresh = YrsPeer()
        fresh.apply(peer.update())
        equal(fresh.shown(), shown, "the text read from an encoded state")
        for peer_others in others.values():
            equal(fresh.others(), peer_others, "the other types read from an encoded state")
        fresh.close()
        again = JavaScriptPeer(node, "again")
        again.apply(peer.update())
        equal(again.shown(), shown, "the text read by JavaScript from an encoded state")
        again.close()
    same_positions(rng, peers)


def state_vector(data):
    """The clock of each client."""
    numbers = []
    value = shift = 0
    for byte in data:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(value)
            value = shift = 0
    return dict(zip(numbers[1::2], numbers[2::2]))


def same_positions(rng, peers):
    """Where a position made by one peer is for the others. pycrdt mixes bytes and UTF-16 units in them, so that it has a
    say on ASCII texts only, and none at the end, where it panics."""
    shown = peers[0].shown()
    units = shown.encode("utf-16-le")
    # Not within a surrogate pair.
    indexes = [n for n in range(len(units) // 2 + 1) if not units[2 * n + 1 : 2 * n + 2].startswith(LOW_SURROGATES)]
    for _ in range(4):
        index, assoc = rng.choice(indexes), rng.choice([0, -1])
        alike = [peer for peer in peers if isinstance(peer, JavaScriptPeer) or (shown.isascii() and index < len(shown))]
        for maker in alike:
            position = maker.position(index, assoc)
            for reader in alike:
                what = f"{position} made by {type(maker).__name__}, read by {type(reader).__name__}"
                equal(reader.resolve(position), index, what)


def equal(found, wanted, what):
    if found != wanted:
        raise Failure(f"{what} differs:\n  {str(found)[:3000]!r}\n  {str(wanted)[:3000]!r}")


# ---- Broken bytes ----


def break_bytes(rng, node, peers):
    """Cut, changed and made-up updates: taken or refused, but a refusal changes nothing, and nothing hangs."""
    source = rng.choice(peers).update()[:3000]
    for _ in range(20):
        data = bytearray(source)
        match rng.randint(0, 3):
            case 0:
                del data[rng.randint(0, len(data)) :]
            case 1:
                for _ in range(rng.randint(1, 4)):
                    data[rng.randrange(len(data))] = rng.randrange(256)
            case 2:
                place = rng.randint(0, len(data))
                data[place:place] = rng.randbytes(rng.randint(1, 9))
            case 3:
                data = bytearray(rng.randbytes(rng.randint(0, 60)))
        node.call("open", "broken", None)
        if rng.random() < 0.5:
            node.call("apply", "broken", source.hex()) if is_whole(node, source) else None
        before = node.call("state", "broken", "")
        if "broken" in node.ask("apply", "broken", data.hex()):
            equal(node.call("state", "broken", ""), before, "the state after a refusal")
        else:
            # Whatever was taken can be edited, encoded, and read again.
            state = node.call("state", "broken", "")
            node.call("replace", "broken", state["length"] // 2, 0, "x")
            node.call("open", "again", None)
            node.call("apply", "again", node.call("state", "broken", "")["update"])
            # Changed bytes may put something behind what it stands before; where Yjs then shows it hangs on the order in which
            # it is read (docs/security.md, "Left"). Nothing of it is lost.
            if not state["waits"]:
                equal(node.call("state", "again", "")["length"], node.call("state", "broken", "")["length"], "what was read again")


def is_whole(node, update):
    node.call("open", "again", None)
    return "ok" in node.ask("apply", "again", update.hex())


def known_hazards(node):
    node.call("open", "hazard", None)
    for hazard in HAZARDS:
        if "broken" not in node.ask("apply", "hazard", hazard):
            raise Failure(f"{hazard} was not refused")
    node.call("apply", "hazard", CUT_PAIR)
    equal(node.call("state", "hazard", "")["shown"], "\ufffd", "a text with a cut pair")
    node.call("open", "again", None)
    node.call("apply", "again", node.call("state", "hazard", "")["update"])
    equal(node.call("state", "again", "")["shown"], "\ufffd", "a text with a cut pair, read again")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=1000)
    arguments.add_argument("--seed", type=int, default=None)
    arguments = arguments.parse_args()
    first = random.randrange(10**9) if arguments.seed is None else arguments.seed
    node = Node()
    try:
        known_hazards(node)
        for seed in range(first, first + arguments.rounds):
            try:
                run_round(node, seed)
            except BaseException:
                print(f"failed in the round of --seed {seed} --rounds 1", file=sys.stderr)
                raise
    except Failure as failure:
        sys.exit(f"text fuzz: {failure}")
    finally:
        node.close()
    print(f"{arguments.rounds} rounds from seed {first} agree")


if __name__ == "__main__":
    main()
