"""The naive model: sorts all operations by stamp and replays them on plain JSON values, one after the other, from nothing.

It knows what docs/API.md says of guards, commands and keys, and nothing of how a node does it. A version is a hash that the
model does not make; it learns which version belongs to which value from what nodes said, and an operation whose guard names a
version decides by that.
"""

import copy
import json

MEMBERSHIP = ("add", "retire", "evict", "fence", "removed")
# Operations that the model passes over: about members, and edits of texts, which it cannot read.
PASSED_OVER = (*MEMBERSHIP, "text")


def text(value):
    """A value as text: equal texts are equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def place(stamp):
    """A stamp as what it is ordered by."""
    time, node = stamp.split("@")
    return int(time), node


class Refused(Exception):
    """A guard or a command that fails at its place."""


class Versions:
    """Which version is the hash of which value."""

    def __init__(self):
        self.of_text, self.contradictions = {}, []
        self.text_of = {}

    def learn(self, version, value):
        as_text = text(value)
        if self.of_text.setdefault(as_text, version) != version or self.text_of.setdefault(version, as_text) != as_text:
            self.contradictions.append((version, as_text))


class Model:
    def __init__(self, versions):
        self.versions = versions
        # (collection, id) -> (value, stamp of the last operation that wrote it)
        self.docs = {}
        self.keys = set()
        # op id -> verdict; and what each document was after each operation: (stamp, collection, id) -> value or None
        self.verdicts, self.after = {}, {}

    def replay(self, ops):
        for op in sorted(ops, key=lambda op: place(op["stamp"])):
            self.verdicts[op["op"]] = "applied" if self.apply(op) else "rejected"
        return self

    def apply(self, op):
        if any(name in command for command in op["commands"] for name in PASSED_OVER):
            return op["verdict"] == "applied"
        key = op.get("key")
        if key is not None:
            if key in self.keys:
                return False
            self.keys.add(key)
        changed = {}
        try:
            for guard in op["guards"]:
                self.judge(guard)
            for command in op["commands"]:
                (name, what), = command.items()
                at = (what["collection"], what["id"])
                value = changed[at] if at in changed else self.docs.get(at, (None, None))[0]
                changed[at] = carry_out(name, what, copy.deepcopy(value))
        except Refused:
            return False
        for at, value in changed.items():
            self.after[(op["stamp"], *at)] = None if value is None else value[0]
            if value is None:
                self.docs.pop(at, None)
            else:
                self.docs[at] = (value, op["stamp"])
        return True

    def judge(self, guard):
        (name, what), = guard.items()
        found = self.docs.get((what["collection"], what["id"]))
        if name == "exists":
            holds = found is not None
        elif name == "absent":
            holds = found is None
        else:
            holds = found is not None and self.versions.of_text.get(text(found[0][0])) == what["version"]
        if not holds:
            raise Refused


def carry_out(name, what, found):
    """The document after a command, as a list of its one value, or None where it does not exist; `found` is it before."""
    if name == "put":
        return [what["value"]]
    if name == "delete":
        return None
    if name == "merge":
        return [merged(found[0] if found else None, what["value"])]
    if name == "patch":
        if found is None:
            raise Refused
        return [patched(found[0], what["patch"])]
    raise ValueError(f"the model knows no command {name!r}")


def merged(target, patch):
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        else:
            target[name] = merged(target.get(name), value)
    return target


def patched(value, steps):
    """A JSON Patch of the steps that the checker writes, all at members of an object: add, replace, remove, test, increment."""
    for step in steps:
        name, what = step["path"].removeprefix("/"), step["op"]
        if not isinstance(value, dict) or (what != "add" and name not in value):
            raise Refused
        if what in ("add", "replace"):
            value[name] = step["value"]
        elif what == "remove":
            del value[name]
        elif what == "test":
            if text(value[name]) != text(step["value"]):
                raise Refused
        elif what == "increment":
            if not isinstance(value[name], (int, float)) or isinstance(value[name], bool):
                raise Refused
            value[name] += step["by"]
        else:
            raise ValueError(f"the model knows no step {what!r}")
    return value
