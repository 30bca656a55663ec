#!/usr/bin/env python3
"""A black-box checker of a pool, in the manner of Jepsen: real processes, faults, random clients, and what the documents promise.

    python3 tests/checker [--program target/debug/lamplight] [--minutes 1] [--seed N] [--nemesis partition,kill,…]
    python3 tests/checker --check DIRECTORY      checks a recorded round again

It is written from README.md and docs/ alone. A round is a fresh pool of three to five nodes on loopback, clients that write
and read through all nodes, and strikes that cross each other (nemesis.py). Then all is healed, finality must come within
--patience seconds, and the recorded answers are held against what the nodes show and against a naive model that sorts all
operations and replays them (invariants.py, model.py). Rounds without a violation are then altered in a dozen ways, and
the checks must find each (mutations.py). On a violation the round's seed, its history and all its files are kept.

A seed gives the same plan and the same clients again; the processes have times of their own.
"""

import argparse
import collections
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time

import api
import cluster
import history
import invariants
import model
import mutations
import nemesis
import workload

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CLIENTS = 5
READY_S = 60
# What a short round takes: no round is begun with less time left.
ROUND_S = 12


class FeedReader(threading.Thread):
    """Reads the final feed of every node all the while, from where it left off, through restarts and changes of id."""

    def __init__(self, shared):
        super().__init__(name="feed reader", daemon=True)
        self.shared, self.told, self.cursors = shared, {}, {}
        self.common, self.violation, self.failure = [], None, None

    def run(self):
        try:
            while not self.shared.stopped.is_set() and self.violation is None:
                for node in self.shared.cluster.present():
                    if node.running and not node.paused:
                        self.read(node)
                self.shared.stopped.wait(0.3)
        except Exception as error:
            self.failure = error
            raise
        finally:
            self.shared.stopped.set()

    def read(self, node):
        answer = node.ask("GET", "/v1/changes" + api.query(view="final", since=self.cursors.get(node.name), limit=1000), timeout=2)
        if answer.status in (400, 410):
            self.violation = f"{node.name} refuses its cursor: {answer.status} {answer.problem}"
        if answer.status != 200:
            return
        told = self.told.setdefault(node.name, [])
        for entry in map(model.text, answer.json()["changes"]):
            if len(told) == len(self.common):
                self.common.append(entry)
            if entry != self.common[len(told)]:
                self.violation = f"{node.name} tells entry {len(told)} as {entry}; it was told as {self.common[len(told)]}"
                break
            told.append(entry)
        self.cursors[node.name] = answer.json()["next"]


class Round:
    def __init__(self, options, seed, directory):
        self.options, self.seed, self.directory = options, seed, directory
        chance = random.Random(seed)
        size = chance.choice([3, 3, 4, 5])
        self.kinds, self.seconds, self.strikes = nemesis.plan(chance, options.nemesis)
        print(f"round of seed {seed}: {size} nodes, {', '.join(self.kinds)}; {len(self.strikes)} strikes in {self.seconds:.0f} s", flush=True)
        self.history = history.History(os.path.join(directory, "history.jsonl"))
        self.cluster = cluster.Cluster(options.program, directory, size)

    def run(self):
        """The violations of the round; its records and its outcome are then in `history` and `outcome`."""
        self.outcome = None
        shared = workload.Shared(self.cluster, self.history, self.set_up())
        clients = [workload.Client(index, self.seed, shared) for index in range(CLIENTS)]
        faults = nemesis.Nemesis(self.cluster, shared, self.kinds, self.strikes, self.seconds)
        feeds = FeedReader(shared)
        threads = [*clients, feeds]
        for thread in threads:
            thread.start()
        faults.run()
        if feeds.violation is None:
            faults.heal_all()
            # Clients go on for a moment, as they do in the life of a pool.
            time.sleep(1)
        shared.stopped.set()
        for thread in threads:
            thread.join()
        for thread in threads:
            if thread.failure:
                raise thread.failure
        if feeds.violation:
            return [invariants.Violation("the final feed only grows", feeds.violation)]
        if stuck := self.wait_final(faults):
            return [invariants.Violation("finality goes on", stuck)]
        self.outcome = self.collect(faults.lost, feeds.told)
        with open(os.path.join(self.directory, "outcome.json"), "w") as file:
            json.dump(self.outcome, file)
        return invariants.check(self.history.records, self.outcome)

    def set_up(self):
        """Starts the nodes and writes the first documents; the Lamport time at which these are there."""
        first, *others = self.cluster.nodes
        for node in (first, *others):
            self.cluster.start(node)
        if late := self.cluster.wait_ready(self.cluster.nodes, READY_S):
            raise SystemExit(f"checker: not ready within {READY_S} s: {', '.join(node.name for node in late)}")
        answer = first.ask("POST", "/v1/tx?wait=final&timeout=30s", {"guards": [], "commands": workload.setup_commands()}, timeout=35)
        if answer.status != 200:
            raise SystemExit(f"checker: the first transaction got {answer.status} {answer.body[:300]!r}")
        time_then, collection_and_id = model.place(answer.json()["stamp"])[0], "/".join(workload.PAGE)
        answer = api.Connection(first.port, 35).ask("PUT", f"/v1/docs/{collection_and_id}?wait=final&timeout=30s", "", {"content-type": "text/plain"})
        if answer.status != 201:
            raise SystemExit(f"checker: the text got {answer.status} {answer.body[:300]!r}")
        return time_then

    def wait_final(self, faults):
        """Waits until every node holds the same and all of it is final; else what stands in the way."""
        end, chance = time.monotonic() + self.options.patience, random.Random(self.seed)
        while True:
            evicted = faults.evict_gone(chance)
            pools = {node.name: node.pool() for node in self.cluster.present() if not faults.retired(node)}
            if evicted and settled(pools.values()):
                return None
            faults.follow_advice(pools)
            if time.monotonic() > end:
                with open(os.path.join(self.directory, "stuck.json"), "w") as file:
                    json.dump({"pools": pools, "logs": {node.name: membership(node) for node in self.cluster.present()}}, file, indent=1)
                return "".join(f"\n    {name}: {unsettled(pool)}" for name, pool in pools.items()) + f"\n    all gone evicted: {evicted}"
            time.sleep(0.2)

    def collect(self, lost, told):
        nodes = {}
        for node in self.cluster.present():
            if (pool := node.pool()) is None or pool["state"] != "member":
                continue
            collections = [one["name"] for one in api.pages(node.port, "/v1/collections", "collections")]
            docs = {name: list(api.pages(node.port, f"/v1/docs/{name}", "docs")) for name in collections}
            text = node.ask("GET", "/v1/docs/{}/{}".format(*workload.PAGE)).body.decode()
            feed, digest = read_feed(node)
            log = list(api.pages(node.port, "/v1/log", "ops"))
            nodes[node.name] = {"log": log, "docs": docs, "text": text, "feed": feed, "feed_bytes": digest}
        return {"lost": lost, "told": told, "nodes": nodes}

    def close(self):
        self.cluster.close()
        self.history.close()


def settled(pools):
    """Whether all are members, hold the same, and nothing waits for finality."""
    if any(pool is None or pool["state"] != "member" or pool["held_back_by"] or pool["final_lag"] != "0" for pool in pools):
        return False
    return len({(pool["ops"], pool["frontier"], pool["pool"]["id"]) for pool in pools}) == 1


def unsettled(pool):
    if pool is None:
        return "no answer"
    held = ", ".join(f"{one['name']} {one['member']} {one['why']}" for one in pool["held_back_by"])
    return " ".join(f"{name} {pool.get(name)}" for name in ("state", "ops", "clock", "frontier")) + f"; held back by {held or 'nobody'}"


def membership(node):
    """The operations about members in a node's log; its refusal if it gives none."""
    try:
        return [op for op in api.pages(node.port, "/v1/log", "ops") if invariants.is_membership(op)]
    except api.Unread as refusal:
        return str(refusal)


def read_feed(node):
    """The final feed from its beginning: its entries as texts, and the hash of its bytes."""
    entries, digest, cursor = [], hashlib.sha256(), None
    while True:
        answer = node.ask("GET", "/v1/changes" + api.query(view="final", since=cursor, limit=1000), timeout=20)
        if answer.status != 200:
            raise api.Unread(f"the final feed of {node.name}: {answer.status} {answer.problem} {answer.error or ''}")
        page = answer.json()
        if not page["changes"]:
            return entries, digest.hexdigest()
        digest.update(answer.body)
        entries += map(model.text, page["changes"])
        cursor = page["next"]


def show(violations, records, directory, again=""):
    """The violations, and of the first ones the records around them, all faults, and how to have such a round again."""
    for violation in violations:
        print(f"  VIOLATION {violation}")
    about = {one for violation in violations[:3] for one in violation.about}
    near = [index for index, record in enumerate(records) if about & {record["n"], record.get("token"), record.get("op"), record.get("asked")}]
    for index in sorted({other for one in near[:6] for other in range(one - 2, one + 3) if 0 <= other < len(records)}):
        print(f"    {json.dumps(records[index])[:600]}")
    print("  faults:")
    for record in records:
        if record["type"] == "fault":
            print(f"    {json.dumps({name: value for name, value in record.items() if name not in ('type', 'n')})[:300]}")
    print(f"  its files are in {directory}")
    if again:
        print(f"  again: {again}")


def summary(records):
    writes = [record for record in records if record["type"] == "write"]
    acknowledged = sum(record["status"] in invariants.ACKNOWLEDGED for record in writes)
    final = sum(record.get("state") in ("final", "rejected") for record in writes)
    reads = sum(record["type"] in ("read", "sum", "ask") for record in records)
    unknown = sum(record["status"] == 0 or record["status"] >= 500 for record in writes)
    faults = collections.Counter(record["fault"] for record in records if record["type"] == "fault" and record.get("status", 200) in (200, 202))
    done = ", ".join(f"{name} {count}" for name, count in sorted(faults.items()) if name not in ("start", "heal", "resume", "uncut", "all healed"))
    return f"{len(writes)} writes ({acknowledged} acknowledged, {final} told final, {unknown} unknown), {reads} reads; {done}"


def check_again(directory):
    records = history.load(os.path.join(directory, "history.jsonl"))
    with open(os.path.join(directory, "outcome.json")) as file:
        outcome = json.load(file)
    violations = invariants.check(records, outcome)
    if violations:
        show(violations, records, directory)
    print(summary(records))
    return 1 if violations or test_checks(records, outcome)[0] else 0


def test_checks(records, outcome, pending=mutations.MUTATIONS):
    """Alters a clean round in each of these ways; whether a check missed one, and those for which another round is needed."""
    missed, unused = mutations.unnoticed(records, outcome, pending, random.Random(0))
    for one in missed:
        print(f"  UNNOTICED {one}")
    print(f"  {len(pending) - len(missed) - len(unused)} of {len(pending)} planted violations found in this history", flush=True)
    return bool(missed), unused


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=os.path.join(ROOT, "target/debug/lamplight"))
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, help="seed of the first round; each next round has the next one")
    parser.add_argument("--nemesis", default=",".join(nemesis.KINDS), help="kinds of faults, with commas")
    parser.add_argument("--patience", type=float, default=60, help="seconds after the last fault in which all becomes final")
    parser.add_argument("--directory", help="where the files of rounds are kept that have a violation")
    parser.add_argument("--keep", action="store_true", help="keep the files of all rounds")
    parser.add_argument("--check", metavar="DIRECTORY", help="check a round again that was recorded there")
    options = parser.parse_args()
    if options.check:
        return check_again(options.check)
    options.nemesis = options.nemesis.split(",")
    if odd := set(options.nemesis) - nemesis.KINDS.keys():
        parser.error(f"no such faults: {', '.join(odd)}; there are {', '.join(nemesis.KINDS)}")
    options.program = os.path.abspath(options.program)
    # Told to end, it takes its nodes with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return campaign(options)


def campaign(options):
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    base = options.directory or tempfile.mkdtemp(prefix="lamplight-checker-")
    end, rounds, failed, pending = time.monotonic() + options.minutes * 60, 0, 0, mutations.MUTATIONS
    while rounds == 0 or time.monotonic() + ROUND_S < end:
        directory = os.path.join(base, f"seed-{seed}")
        os.makedirs(directory)
        began, one = time.monotonic(), Round(options, seed, directory)
        try:
            violations = one.run()
            if violations:
                failed += 1
                again = f"python3 tests/checker --minutes 0 --seed {seed} --nemesis {','.join(options.nemesis)}"
                show(violations, one.history.records, directory, again)
        finally:
            one.close()
        print(f"  {summary(one.history.records)}; {time.monotonic() - began:.0f} s", flush=True)
        if not violations and pending:
            missed, pending = test_checks(one.history.records, one.outcome, pending)
            failed += missed
        if not violations and not options.keep:
            shutil.rmtree(directory)
        rounds, seed = rounds + 1, seed + 1
    if not os.listdir(base):
        os.rmdir(base)
    print(f"{rounds} rounds, {failed} violations or checks that missed one" if failed else f"{rounds} rounds without a violation")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
