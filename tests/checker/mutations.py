"""Planted violations: a recorded round without a violation is altered in one thing, and the checks must find it.

Each mutation changes a copy of the round and says which violation it is; one that finds nothing to alter in this round says so
by returning nothing.
"""

import copy
import json

import invariants
import model


def changed_verdict(records, outcome, chance):
    record = pick(records, chance, lambda one: one["type"] == "write" and one.get("state") == "final" and one["status"] in (200, 201))
    if record:
        record["state"] = record["verdict"] = "rejected"
        return "final verdicts are kept"


def moved_place(records, outcome, chance):
    record = pick(records, chance, lambda one: one["type"] == "write" and one.get("state") == "final" and one.get("stamp"))
    if record:
        time, node = record["stamp"].split("@")
        record["stamp"] = f"{int(time) + 1}@{node}"
        return "final verdicts are kept"


def lost_write(records, outcome, chance):
    """An acknowledged write is in no log, on no node."""
    record = pick(records, chance, lambda one: one["type"] == "write" and one["status"] in (200, 201) and not invariants.may_be_lost(one, outcome))
    if record:
        for node in outcome["nodes"].values():
            node["log"] = [op for op in node["log"] if invariants.is_membership(op) or invariants.token_of(op) != record["token"]]
        return "what is acknowledged stays"


def one_node_differs(records, outcome, chance):
    node = list(outcome["nodes"].values())[-1]
    if len(outcome["nodes"]) > 1:
        chance.choice(node["docs"]["counters"])["value"]["n"] += 1
        return "nodes agree"


def other_order(records, outcome, chance):
    """Two operations change places in the log of one node."""
    log = list(outcome["nodes"].values())[-1]["log"]
    if len(outcome["nodes"]) > 1:
        at = chance.randrange(len(log) - 1)
        log[at], log[at + 1] = log[at + 1], log[at]
        return "nodes agree"


def feed_taken_back(records, outcome, chance):
    told = chance.choice([told for told in outcome["told"].values() if told] or [[]])
    if told:
        del told[chance.randrange(len(told))]
        told.append(json.dumps({"stamp": "1@x"}))
        return "the final feed only grows"


def counted_twice(records, outcome, chance):
    """A write has effect under two ids, everywhere alike."""
    log = next(iter(outcome["nodes"].values()))["log"]
    op = pick(log, chance, lambda one: not invariants.is_membership(one) and one["verdict"] == "applied" and one.get("key"))
    if op:
        time, origin = op["stamp"].split("@")
        for node in outcome["nodes"].values():
            node["log"].append({**op, "op": f"{origin}.999999", "stamp": f"{int(time) + 10**6}@{origin}"})
        return "keys count once"


def forgotten_read(records, outcome, chance):
    """A session reads a counter, and later less."""
    read = pick(
        records, chance,
        lambda one: one["type"] == "read" and one["status"] == 200 and one["doc"][0] == "counters" and one["view"] is None and one["value"]["n"] > 0 and one["session"] is not None,
    )  # fmt: skip
    if read:
        records.append({**read, "n": len(records), "value": {**read["value"], "n": read["value"]["n"] - 1}})
        return "sessions read what they saw"


def wrong_total(records, outcome, chance):
    record = pick(records, chance, lambda one: one["type"] == "sum" and one["status"] == 200 and one["balances"])
    if record:
        record["balances"]["a0"] += 1
        return "the bank's total holds"


def wrong_fold(records, outcome, chance):
    """All nodes agree on a document that the log does not make."""
    at = chance.randrange(len(next(iter(outcome["nodes"].values()))["docs"]["counters"]))
    for node in outcome["nodes"].values():
        node["docs"]["counters"][at]["value"]["n"] += 1
    return "replay agrees"


def wrong_verdict(records, outcome, chance):
    """All nodes agree on a verdict that the replay does not come to."""
    log = next(iter(outcome["nodes"].values()))["log"]
    op = pick(log, chance, lambda one: not passed_over(one) and one["verdict"] == "applied")
    if op:
        for node in outcome["nodes"].values():
            next(one for one in node["log"] if one["op"] == op["op"])["verdict"] = "rejected"
        return "replay agrees"


def refused_but_written(records, outcome, chance):
    tokens = {record["token"] for record in records if record["type"] == "write" and record["status"] == 201 and record["key"] is None}
    record = pick(records, chance, lambda one: one["type"] == "write" and one["token"] in tokens)
    if record:
        record.update(status=412, problem="version-mismatch", op=None, state=None)
        return "what is refused writes nothing"


def lost_word(records, outcome, chance):
    record = pick(records, chance, lambda one: one["type"] == "edit" and one["status"] == 200 and not invariants.may_be_lost(one, outcome))
    if record:
        for node in outcome["nodes"].values():
            node["text"] = node["text"].replace(record["token"] + " ", "")
        return "texts keep all edits"


def foreign_version(records, outcome, chance):
    """A receipt names the version of another's write."""
    record = pick(records, chance, lambda one: one["type"] == "write" and one.get("state") == "final" and one.get("docs_now"))
    if record:
        record["docs_now"][0][2] = "0" * 32
        return "a receipt names what its write stored"


MUTATIONS = [
    changed_verdict, moved_place, lost_write, one_node_differs, other_order, feed_taken_back, counted_twice, forgotten_read,
    wrong_total, wrong_fold, wrong_verdict, refused_but_written, lost_word,
    foreign_version,
]  # fmt: skip


def passed_over(op):
    return any(name in command for command in op["commands"] for name in model.PASSED_OVER)


def pick(items, chance, fits):
    fitting = [item for item in items if fits(item)]
    return chance.choice(fitting) if fitting else None


def unnoticed(records, outcome, mutations, chance):
    """Of these mutations, those that the checks do not find in this round, each with why, and those that find nothing to alter."""
    missed, unused = [], []
    for mutate in mutations:
        mutant, altered = copy.deepcopy(records), copy.deepcopy(outcome)
        expected = mutate(mutant, altered, chance)
        if expected is None:
            unused.append(mutate)
        elif expected not in (names := {violation.name for violation in invariants.check(mutant, altered)}):
            missed.append(f"{mutate.__name__}: expected {expected!r}, found {sorted(names)}")
    return missed, unused
