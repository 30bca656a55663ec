"""Clients: threads that read and write, each in a session of its own, and record every answer."""

import json
import random
import threading

import api

COUNTERS, MAPS, ACCOUNTS, REGISTERS = 3, 3, 5, 6
BALANCE = 100
JSON = {"content-type": "application/json"}
PATCH = {"content-type": "application/json-patch+json"}
MERGE = {"content-type": "application/merge-patch+json"}
DELTA = {"content-type": "application/json", "if-match": "*"}
# A text document in which all clients write.
PAGE = ("pages", "p0")
REQUEST_TIMEOUT_S = 6
# How often there are new names to claim.
NAME_SECONDS = 0.7
# Refusals because of a session that this node does not hold, in a row, before a client begins a new one.
SESSION_REFUSALS_MAX = 2


def setup_commands():
    """The documents that a round begins with, as one transaction."""
    put = lambda collection, name, value: {"put": {"collection": collection, "id": name, "value": value}}
    return (
        [put("counters", f"c{index}", {"n": 0, "by": "setup"}) for index in range(COUNTERS)]
        + [put("maps", f"m{index}", {"by": "setup"}) for index in range(MAPS)]
        + [put("accounts", f"a{index}", {"balance": BALANCE, "by": "setup"}) for index in range(ACCOUNTS)]
    )


class Shared:
    """What all clients of a round have in common."""

    def __init__(self, cluster, history, setup_time):
        self.cluster, self.history, self.setup_time = cluster, history, setup_time
        self.stopped = threading.Event()
        # Rises when a disk loses what it held: what a session saw before may be gone, so all begin new ones.
        self.epoch = 0
        # The node that was started last, for as long as it is of interest: it gets more of the requests.
        self.fresh = None
        # Operations that some node has called final, for others to be asked.
        self.told_final = []


class Client(threading.Thread):
    def __init__(self, index, seed, shared):
        super().__init__(name=f"client {index}", daemon=True)
        self.index, self.shared, self.chance = index, shared, random.Random(f"{seed} client {index}")
        self.connections, self.count, self.sessions, self.refusals = {}, 0, 0, 0
        self.session = self.epoch = self.failure = None

    def run(self):
        acts = [
            (self.register, 16), (self.compare_and_set, 8), (self.remove, 3), (self.claim, 10), (self.increment, 18),
            (self.merge, 8), (self.transfer, 16), (self.insert, 8), (self.type, 5), (self.read, 14), (self.sum_up, 8), (self.ask_again, 4),
        ]  # fmt: skip
        names, weights = zip(*acts)
        try:
            while not self.shared.stopped.is_set():
                self.chance.choices(names, weights)[0]()
                self.shared.stopped.wait(self.chance.expovariate(1 / 0.05))
        except Exception as error:  # A client that ends unseen would make the check weaker.
            self.failure = error
            raise
        finally:
            for connection in self.connections.values():
                connection.close()

    # Writes

    def register(self):
        name = f"r{self.chance.randrange(REGISTERS)}"
        value = {"by": (token := self.token()), "x": self.chance.choice([1, -7, 2.5, "é", None, [1, {"y": 2}]])}
        self.write("register", token, [("regs", name)], "PUT", f"/v1/docs/regs/{name}", value, JSON, sure=True)

    def compare_and_set(self):
        name = f"r{self.chance.randrange(REGISTERS)}"
        found = self.get("regs", name)
        if found is None or found.status != 200:
            return
        headers = {**JSON, "if-match": found.headers["etag"]}
        value = {"by": (token := self.token())}
        self.write("compare-and-set", token, [("regs", name)], "PUT", f"/v1/docs/regs/{name}", value, headers)

    def remove(self):
        name, token = f"r{self.chance.randrange(REGISTERS)}", self.token()
        commands = [
            {"delete": {"collection": "regs", "id": name}},
            {"put": {"collection": "marks", "id": token, "value": {"by": token}}},
        ]
        body = {"guards": [], "commands": commands}
        self.write("remove", token, [("marks", token)], "POST", "/v1/tx", body, JSON, sure=True)

    def claim(self):
        name, value = self.new_name(), {"by": (token := self.token())}
        headers = {**JSON, "if-none-match": "*"}
        self.write("claim", token, [("names", name)], "PUT", f"/v1/docs/names/{name}", value, headers, final=0.6)

    def new_name(self):
        """A name that others may be claiming too, at this moment."""
        return f"k{int(self.shared.history.now() / NAME_SECONDS) + self.chance.randrange(2)}"

    def increment(self):
        name = f"c{self.chance.randrange(COUNTERS)}"
        steps = [{"op": "increment", "path": "/n", "by": 1}, {"op": "add", "path": "/by", "value": (token := self.token())}]
        self.write("increment", token, [("counters", name)], "PATCH", f"/v1/docs/counters/{name}", steps, PATCH, sure=True)

    def merge(self):
        name = f"m{self.chance.randrange(MAPS)}"
        value = {f"f{self.chance.randrange(4)}": (token := self.token()), f"f{self.chance.randrange(4, 8)}": None}
        self.write("merge", token, [("maps", name)], "PATCH", f"/v1/docs/maps/{name}", value, MERGE, sure=True)

    def transfer(self):
        one, two = (f"a{index}" for index in self.chance.sample(range(ACCOUNTS), 2))
        token, amount, guards = self.token(), self.chance.randrange(1, 9), []
        style = self.chance.choice(["free", "free", "guarded", "tested"])
        found = self.get("accounts", one) if style != "free" else None
        if style != "free" and (found is None or found.status != 200):
            return
        if style == "guarded":
            guards = [{"version": {"collection": "accounts", "id": one, "version": found.headers["etag"].strip('"')}}]
        tested = [{"op": "test", "path": "/balance", "value": found.json()["balance"]}] if style == "tested" else []
        mark = {"op": "add", "path": "/by", "value": token}
        by = lambda amount: {"op": "increment", "path": "/balance", "by": amount}
        commands = [
            {"patch": {"collection": "accounts", "id": one, "patch": [*tested, by(-amount), mark]}},
            {"patch": {"collection": "accounts", "id": two, "patch": [by(amount), mark]}},
        ]
        docs, body = [("accounts", one), ("accounts", two)], {"guards": guards, "commands": commands}
        self.write("transfer", token, docs, "POST", "/v1/tx", body, JSON, sure=style == "free")

    def insert(self):
        token = self.token()
        self.write("insert", token, [], "POST", "/v1/docs/uniq", {"by": token}, JSON, keyed=1, sure=True)

    def type(self):
        """Puts a word at the beginning of the text, whatever it reads."""
        token = self.token()
        body = json.dumps([{"insert": f"{token} "}])
        answer, record = self.ask("PATCH", "/v1/docs/{}/{}".format(*PAGE), body, DELTA)
        record.update(kind="edit", token=token, op=answer.json().get("op"))
        self.record(record)

    def write(self, what, token, docs, method, path, body, headers, sure=False, final=0.12, keyed=0.25):
        """One request; with an idempotency key it may be sent again, to other nodes too. `sure`: no guard can refuse it."""
        key = f"key-{token}" if self.chance.random() < keyed else None
        wait = self.chance.choices(["final", "2", None], [final, 0.12, 0.88 - final])[0]
        timeout = f"{self.chance.choice([500, 2000, 4000])}ms" if wait else None
        again = 1 if key is None else self.chance.choice([1, 1, 2, 3])
        if key is not None:
            if path == "/v1/tx" and self.chance.random() < 0.5:
                body = {**body, "key": key}
            else:
                headers = {**headers, "idempotency-key": key}
        for attempt in range(again):
            if self.shared.stopped.is_set():
                return
            answer, record = self.ask(method, path + api.query(wait=wait, timeout=timeout), json.dumps(body), headers)
            receipt = answer.json()
            if answer.ok or "op" in receipt:
                record.update(
                    op=receipt.get("op"), stamp=receipt.get("stamp"), state=receipt.get("status"),
                    verdict=receipt.get("verdict"), held_by=receipt.get("held_by"),
                    docs_now=[[doc["collection"], doc["id"], doc.get("version")] for doc in receipt.get("docs", [])],
                )  # fmt: skip
            if not answer.ok and "op" in receipt:
                # A refusal that names its operation: it has no effect at its final place.
                record.update(state="rejected", verdict="rejected", stamp=None)
            if record.get("state") in ("final", "rejected") and record.get("op"):
                self.shared.told_final.append(record["op"])
            record.update(
                kind="write", what=what, token=token, key=key, attempt=attempt, docs=[list(at) for at in docs], sure=sure,
                wait=wait, location=answer.headers.get("location"),
            )  # fmt: skip
            self.record(record)

    # Reads

    def read(self):
        names = {
            "counters": f"c{self.chance.randrange(COUNTERS)}", "regs": f"r{self.chance.randrange(REGISTERS)}",
            "names": self.new_name(), "maps": f"m{self.chance.randrange(MAPS)}",
        }  # fmt: skip
        collection = self.chance.choices(list(names), [5, 5, 2, 2])[0]
        self.get(collection, names[collection], "final" if self.chance.random() < 0.3 else None)

    def get(self, collection, name, view=None):
        answer, record = self.ask("GET", f"/v1/docs/{collection}/{name}" + api.query(view=view), None, {})
        record.update(kind="read", doc=[collection, name], view=view)
        if answer.status == 200:
            record.update(
                value=answer.json(), stamp=answer.headers.get("lamplight-stamp"), version=answer.headers["etag"].strip('"'),
                state=answer.headers.get("lamplight-status"),
            )  # fmt: skip
        self.record(record)
        return answer

    def sum_up(self):
        """All accounts in one page: now, as final operations make them, or at a time."""
        view = self.chance.choice([None, "final", "at"])
        values = {"view": "final"} if view == "final" else {}
        if view == "at":
            clock = max((int(record) for record in [self.last_clock] if record), default=self.shared.setup_time)
            values = {"at": self.chance.randint(self.shared.setup_time, max(clock, self.shared.setup_time))}
        answer, record = self.ask("GET", "/v1/docs/accounts" + api.query(**values, limit=100), None, {})
        record.update(kind="sum", view=view, at=values.get("at"))
        if answer.status == 200:
            record["balances"] = {doc["id"]: doc["value"]["balance"] for doc in answer.json()["docs"]}
        self.record(record)

    def ask_again(self):
        if not self.shared.told_final:
            return
        op = self.chance.choice(self.shared.told_final)
        answer, record = self.ask("GET", f"/v1/ops/{op}?wait=final&timeout=2s", None, {})
        receipt = answer.json()
        record.update(kind="ask", asked=op)
        if answer.status == 200:
            record.update({to: receipt.get(name) for to, name in [("op", "op"), ("stamp", "stamp"), ("state", "status"), ("verdict", "verdict")]})
        self.record(record)

    # The request

    last_clock = None

    def token(self):
        self.count += 1
        return f"w{self.index}-{self.count}"

    def ask(self, method, path, body, headers):
        """Sends a request to a node, mostly to one that runs; the answer, and the beginning of its record."""
        shared = self.shared
        if self.epoch != shared.epoch:
            self.begin_session()
        epoch, nodes = shared.epoch, [node for node in shared.cluster.present() if not node.shunned]
        running = [node for node in nodes if node.running and not node.paused]
        node = self.chance.choice(running if running and self.chance.random() < 0.9 else nodes)
        if shared.fresh in nodes and self.chance.random() < 0.4:
            node = shared.fresh
        if self.session:
            headers = {**headers, "lamplight-session": self.session}
        connection = self.connections.setdefault(node.port, api.Connection(node.port, REQUEST_TIMEOUT_S))
        began = shared.history.now()
        answer = connection.ask(method, path, body, headers)
        record = {
            "client": self.index, "session": self.sessions if epoch == shared.epoch else None, "node": node.name, "t0": began,
            "status": answer.status, "problem": answer.problem, "request": f"{method} {path}",
        }  # fmt: skip
        if answer.error:
            record["error"] = answer.error
        self.last_clock = answer.headers.get("lamplight-clock") or self.last_clock
        self.refusals = self.refusals + 1 if answer.problem == "session-not-here" else 0
        if answer.session:
            self.session = answer.session
        return answer, record

    def record(self, record):
        self.shared.history.add(record.pop("kind"), **record)
        if self.refusals >= SESSION_REFUSALS_MAX:
            self.begin_session()

    def begin_session(self):
        self.session, self.epoch, self.refusals = None, self.shared.epoch, 0
        self.sessions += 1
