"""What must hold of a recorded round: its history, and what each node shows once all is healed.

An outcome is plain data, so that a round that was recorded can be checked again, and altered to see that the checks notice:

    {"setup": "<stamp>",
     "lost": [{"node", "from", "to"}],          disks that lost what their node acknowledged in this time
     "told": {"<node>": [ENTRY, …]},            the final feed as it was read while all went on
     "nodes": {"<node>": {"log": […], "docs": {"<collection>": […]}, "text", "feed": [ENTRY, …], "feed_bytes": "<hash>"}}}

An entry of the final feed is kept as its text.
"""

import collections
import json

import model
import workload

ACKNOWLEDGED = (200, 201, 202)
SHOWN_MAX = 8


class Violation(Exception):
    """A promise that was broken."""

    def __init__(self, name, detail, about=()):
        super().__init__(f"{name}: {detail}")
        self.name, self.about = name, list(about)


def check(records, outcome):
    """All violations of a round."""
    found = []
    for rule in (
        nodes_agree, feed_only_grows, verdicts_are_kept, acknowledged_is_kept, nothing_unasked, keys_count_once,
        sessions_hold, bank_holds, texts_keep_all, replay_agrees, reads_of_final_hold,
    ):  # fmt: skip
        violations = list(rule(records, outcome))
        found += violations[:SHOWN_MAX]
        if len(violations) > SHOWN_MAX:
            found.append(Violation(violations[0].name, f"and {len(violations) - SHOWN_MAX} more of this kind"))
    return found


def nodes_agree(_, outcome):
    """All nodes hold the same operations in the same order with the same verdicts, all final, and the same documents."""
    (first, one), *others = outcome["nodes"].items()
    for op in one["log"]:
        if op["status"] not in ("final", "rejected") and not is_membership(op):
            yield Violation("all becomes final", f"{op['op']} is {op['status']} on {first} long after all is healed", [op["op"]])
    for name, other in others:
        for what in ("log", "feed"):
            if difference := first_difference(one[what], other[what]):
                yield Violation("nodes agree", f"{what} of {first} and {name}: {difference}")
        if one["feed_bytes"] != other["feed_bytes"]:
            yield Violation("the final feed is the same bytes", f"{first} and {name} differ")
        for collection in one["docs"].keys() | other["docs"].keys():
            if difference := first_difference(one["docs"].get(collection, []), other["docs"].get(collection, [])):
                yield Violation("nodes agree", f"documents in {collection} of {first} and {name}: {difference}")


def feed_only_grows(_, outcome):
    """What a node told in the final feed, at any time, is the beginning of what all tell at the end."""
    end = next(iter(outcome["nodes"].values()))["feed"]
    for name, told in outcome["told"].items():
        if difference := first_difference(told, end[: len(told)]):
            yield Violation("the final feed only grows", f"{name} told something else before: {difference}")
    for before, after in zip(end, end[1:]):
        one, two = json.loads(before), json.loads(after)
        order = [(*model.place(entry["stamp"]), entry["collection"], entry["id"]) for entry in (one, two)]
        if order[0] >= order[1]:
            yield Violation("the final feed is in stamp order", f"{before} before {after}")


def verdicts_are_kept(records, outcome):
    """What was called final keeps its verdict and its place, and stays in the log."""
    log = by_id(outcome)
    for record in records:
        if record["type"] not in ("write", "ask") or record.get("state") not in ("final", "rejected"):
            continue
        op, at = record.get("op"), f"{record['request']} at {record['node']} (record {record['n']})"
        verdict = "applied" if record["state"] == "final" else "rejected"
        if record.get("verdict", verdict) != verdict:
            yield Violation("final verdicts are kept", f"{at} is {record['state']} with verdict {record['verdict']}", [op])
        if op not in log:
            yield Violation("final verdicts are kept", f"{at} named {op} {record['state']}; the log has no such operation", [op])
            continue
        kept = log[op]
        if kept["verdict"] != verdict or record.get("stamp") not in (None, kept["stamp"]):
            told = f"{record['state']} at {record.get('stamp')}"
            yield Violation("final verdicts are kept", f"{at} called {op} {told}; it is {kept['verdict']} at {kept['stamp']}", [op])


def acknowledged_is_kept(records, outcome):
    """Each write that was acknowledged is in the log, but what only a lost disk held; and has effect where no guard can fail."""
    by_token = ops_by_token(outcome)
    for record in records:
        if record["type"] != "write" or record["status"] not in ACKNOWLEDGED:
            continue
        ops, about = by_token.get(record["token"], []), [record["token"]]
        text = f"{record['what']} {record['token']}: {record['request']} at {record['node']} got {record['status']} for {record.get('op')}"
        if not ops:
            if not may_be_lost(record, outcome):
                yield Violation("what is acknowledged stays", f"{text}; it is in no log", about)
        elif record["sure"] and not any(op["verdict"] == "applied" for op in ops):
            yield Violation("what is acknowledged stays", f"{text}; it has no effect, and no guard that could fail", about)


def may_be_lost(record, outcome):
    """Whether only a disk that was lost needs to have held the write."""
    if record.get("state") in ("final", "rejected") or (record.get("held_by") or 0) >= 2:
        return False
    return any(loss["node"] == record["node"] and loss["from"] <= record["t"] and record["t0"] <= loss["to"] for loss in outcome["lost"])


def nothing_unasked(records, outcome):
    """The log has only what clients sent, and nothing that was refused at once on every attempt."""
    attempts = collections.defaultdict(list)
    for record in records:
        if record["type"] == "write":
            attempts[record["token"]].append(record)
    for token, ops in ops_by_token(outcome).items():
        if token == "setup":
            continue
        if token not in attempts:
            yield Violation("the log has what was asked for", f"{ops[0]['op']} writes {token!r}, which no client sent", [token])
        elif all(400 <= record["status"] < 500 and not record.get("op") for record in attempts[token]):
            refusals = ", ".join(f"{record['status']} {record['problem']}" for record in attempts[token])
            yield Violation("what is refused writes nothing", f"{token} got {refusals}, and is in the log as {ops[0]['op']}", [token])


def keys_count_once(records, outcome):
    """A write has one effect, however often it was sent with its key or issued again; its final receipts are the same."""
    for token, ops in ops_by_token(outcome).items():
        applied = [op["op"] for op in ops if op["verdict"] == "applied"]
        if len(applied) > 1:
            yield Violation("keys count once", f"{token} has effect in {' and '.join(applied)}", [token])
    receipts, places = {}, {}
    for record in records:
        if record["type"] != "write" or record["key"] is None:
            continue
        if record["status"] == 422:
            yield Violation("keys count once", f"{record['token']} was sent again as it was, and got 422", [record["token"]])
        if record.get("state") in ("final", "rejected") and record.get("op"):
            first = receipts.setdefault(record["token"], (record["op"], record["state"]))
            if first != (record["op"], record["state"]):
                told = f"{' '.join(first)} and {record['op']} {record['state']}"
                yield Violation("a repeated key gets the first receipt", f"{record['token']}: {told}", [record["token"]])
        if record["what"] == "insert" and record["status"] == 201:
            place = next((doc[1] for doc in record.get("docs_now") or []), None)
            if place is not None and places.setdefault(record["token"], place) != place:
                yield Violation("a repeated key makes one document", f"{record['token']}: {places[record['token']]} and {place}", [record["token"]])


def sessions_hold(records, _):
    """In a session, on any node: counters never fall, own writes are seen, and a write comes after all that was seen."""
    for record, seen in in_sessions(records):
        if record["type"] == "read" and record.get("view") is None:
            yield from read_in_session(record, seen)
        if record["type"] == "write" and record.get("stamp") and record["status"] in ACKNOWLEDGED:
            yield from write_in_session(record, seen)


class Seen:
    """What a session has seen: the greatest time, how often it counted itself and the greatest count, and its own writes."""

    def __init__(self):
        self.time, self.counts, self.own, self.stamps, self.tokens = 0, {}, collections.Counter(), {}, set()


def in_sessions(records):
    sessions = collections.defaultdict(Seen)
    for record in records:
        if record["type"] in ("read", "write") and record.get("session") is not None:
            yield record, sessions[(record["client"], record["session"])]


def read_in_session(record, seen):
    collection, name = record["doc"]
    at, about = (collection, name), f"record {record['n']}: {record['request']} at {record['node']} in session {record['client']}/{record['session']}"
    if record["status"] == 404 and collection in ("counters", "maps", "accounts"):
        yield Violation("sessions read what they saw", f"{about}: 404, and nobody deletes there", [record["n"]])
    if record["status"] != 200:
        return
    if collection == "counters":
        count, least = record["value"]["n"], max(seen.counts.get(at, 0), seen.own[at])
        if count < least:
            yield Violation("sessions read what they saw", f"{about}: {count}, after {least}", [record["n"]])
        seen.counts[at] = max(count, least)
    if at in seen.stamps and model.place(record["stamp"]) < model.place(seen.stamps[at]):
        yield Violation("sessions read their writes", f"{about}: as of {record['stamp']}, after a write at {seen.stamps[at]}", [record["n"]])
    seen.time = max(seen.time, model.place(record["stamp"])[0])


def write_in_session(record, seen):
    time = model.place(record["stamp"])[0]
    if record["key"] is None and time <= seen.time:
        about = f"record {record['n']}: {record['what']} {record['token']} at {record['node']}"
        yield Violation("a session's writes follow its reads", f"{about} is at {record['stamp']}, after time {seen.time} was seen", [record["n"]])
    seen.time = max(seen.time, time)
    if not record["sure"]:
        return
    for collection, name in record["docs"]:
        at = (collection, name)
        if record["what"] == "increment" and record["token"] not in seen.tokens:
            seen.own[at] += 1
        if record["key"] is None and (at not in seen.stamps or model.place(record["stamp"]) > model.place(seen.stamps[at])):
            seen.stamps[at] = record["stamp"]
    seen.tokens.add(record["token"])


def bank_holds(records, outcome):
    """All accounts together have what they began with, in every view and at every time."""
    total = workload.ACCOUNTS * workload.BALANCE
    for record in records:
        if record["type"] != "sum" or record["status"] != 200:
            continue
        # A node that was killed may show the state before the first transaction as final, until it hears how far its pool is.
        if record["view"] == "final" and not record["balances"]:
            continue
        if sum(record["balances"].values()) != total:
            at = f"record {record['n']} at {record['node']}, view {record['view']} {record['at'] or ''}"
            yield Violation("the bank's total holds", f"{at}: {sum(record['balances'].values())} instead of {total}", [record["n"]])
    for name, node in outcome["nodes"].items():
        if (there := sum(doc["value"]["balance"] for doc in node["docs"]["accounts"])) != total:
            yield Violation("the bank's total holds", f"{there} instead of {total} on {name} at the end")


def texts_keep_all(records, outcome):
    """Concurrent edits all stay: the text has each acknowledged word once, and no word twice or of nobody."""
    (first, one), *others = outcome["nodes"].items()
    for name, other in others:
        if one["text"] != other["text"]:
            yield Violation("nodes agree", f"the text reads otherwise on {first} and {name}: {one['text'][:80]!r} {other['text'][:80]!r}")
    words, edits = collections.Counter(one["text"].split()), {record["token"]: record for record in records if record["type"] == "edit"}
    for token, record in edits.items():
        about = f"{record['request']} of {token} at {record['node']} got {record['status']}"
        if record["status"] in ACKNOWLEDGED and not words[token] and not may_be_lost(record, outcome):
            yield Violation("texts keep all edits", f"{about}; the text has it not", [token])
        if words[token] > 1 or (words[token] and 400 <= record["status"] < 500):
            yield Violation("texts keep edits once", f"{about}; the text has it {words[token]} times", [token])
    for word in words.keys() - edits.keys():
        yield Violation("texts keep edits once", f"the text has {word!r}, which nobody wrote")


def replay_agrees(records, outcome):
    """The naive model, from the log alone, comes to the same verdicts, documents and final feed."""
    node = next(iter(outcome["nodes"].values()))
    versions = model.Versions()
    for entry in map(json.loads, node["feed"]):
        if "version" in entry and not entry.get("text"):
            versions.learn(entry["version"], entry["value"])
    for record in records:
        if record["type"] == "read" and record["status"] == 200:
            versions.learn(record["version"], record["value"])
    for version, value in versions.contradictions:
        yield Violation("a version is one value", f"{version} and {value}")
    replayed = model.Model(versions).replay(node["log"])
    for op in node["log"]:
        if replayed.verdicts[op["op"]] != op["verdict"]:
            about = f"{op['op']} at {op['stamp']} is {op['verdict']}; replayed it is {replayed.verdicts[op['op']]}"
            yield Violation("replay agrees", about, [op["op"]])
    for collection, docs in node["docs"].items():
        for doc in docs:
            if doc.get("text"):
                continue
            value, stamp = replayed.docs.pop((collection, doc["id"]), ([None], None))
            if model.text(value[0]) != model.text(doc["value"]) or stamp != doc["stamp"]:
                yield Violation("replay agrees", f"{collection}/{doc['id']} is {doc['value']} of {doc['stamp']}; replayed {value[0]} of {stamp}")
    if replayed.docs:
        yield Violation("replay agrees", f"replayed there are also {sorted(replayed.docs)[:SHOWN_MAX]}")
    told = {(entry["stamp"], entry["collection"], entry["id"]): entry.get("value") for entry in map(json.loads, node["feed"]) if not entry.get("text")}
    if told != replayed.after:
        odd = [at for at in told.keys() | replayed.after.keys() if told.get(at, ...) != replayed.after.get(at, ...)]
        yield Violation("replay agrees", f"the final feed has other entries than the replay, such as {odd[:3]}")


def reads_of_final_hold(records, outcome):
    """What was shown as final was that: the final feed has it at its place; and receipts name what their write stored."""
    feed = map(json.loads, next(iter(outcome["nodes"].values()))["feed"])
    told = {(entry["stamp"], entry["collection"], entry["id"]): entry.get("version") for entry in feed}
    for record in records:
        about = f"record {record['n']}: {record.get('request')} at {record.get('node')}"
        if record["type"] == "read" and record["status"] == 200 and (record["view"] == "final" or record["state"] == "final"):
            if (was := told.get((record["stamp"], *record["doc"]))) != record["version"]:
                shown = f"showed version {record['version']} of {record['stamp']} as final; the final feed has {was} there"
                yield Violation("reads of what is final hold", f"{about} {shown}", [record["n"]])
        if record["type"] == "write" and record.get("state") == "final":
            for collection, name, version in record.get("docs_now") or []:
                if (was := told.get((record["stamp"], collection, name), ...)) != version:
                    stored = "nothing" if was is ... else was
                    said = f"named version {version} of {collection}/{name} at {record['stamp']}, where it stored {stored}"
                    yield Violation("a receipt names what its write stored", f"{about} {said}", [record["n"]])


# Parts of an outcome


def is_membership(op):
    return any(name in command for command in op["commands"] for name in model.MEMBERSHIP)


def by_id(outcome):
    return {op["op"]: op for op in next(iter(outcome["nodes"].values()))["log"]}


def ops_by_token(outcome):
    """Operations of the log by the token of the write that they carry."""
    found = collections.defaultdict(list)
    for op in next(iter(outcome["nodes"].values()))["log"]:
        if not is_membership(op) and (token := token_of(op)) is not None:
            found[token].append(op)
    return found


def token_of(op):
    for command in op["commands"]:
        (name, what), = command.items()
        if name == "put":
            return what["value"]["by"]
        if name == "merge":
            return next(value for value in what["value"].values() if value is not None)
        if name == "patch":
            return next(step["value"] for step in what["patch"] if step["path"] == "/by")
    return None


def first_difference(one, two):
    """Where two lists differ first; nothing where they do not."""
    for index, (left, right) in enumerate(zip(one, two)):
        if left != right:
            return f"entry {index}: {left} and {right}"
    return f"{len(one)} and {len(two)} entries" if len(one) != len(two) else None
