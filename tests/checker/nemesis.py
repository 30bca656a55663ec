"""Faults: a plan that is drawn from the seed, and what carries it out on the cluster.

Strikes overlap: each has a beginning, and ends that are due later while other strikes begin.
"""

import heapq
import itertools
import random
import time

# Kinds of faults, and how often each is drawn.
KINDS = {
    "partition": 8, "pause": 5, "kill": 6, "restart": 2, "cut": 2, "join": 3,
    "evict": 4, "gone": 3, "retire": 3, "leave": 3, "wipe": 2, "oldcopy": 3, "move": 2, "twin": 2, "rejoin": 2,
}  # fmt: skip
# Each of these takes the disk of a node: at most one a round, since `wait=2` promises to survive the loss of one.
LOSSES = {"wipe", "gone", "oldcopy"}
NODES_MAX = 6

# A member counts as alive for some seconds after it was heard of last; only then it can be evicted.
EVICT_PATIENCE_S = 15
# After the last fault, the time in which a majority replaces a member whose disk was lost.
REPLACED_S = 18
# Seconds after the last fault from which an operator does what the problems of /v1/pool say, and between two such looks.
ADVICE_S = 22
ADVICE_EVERY_S = 10
# How long a node that was started is of more interest to clients than others.
FRESH_S = 1.5
EVICTIONS = {"evict", "gone"}
# How long the faults of a round go on: longer where members are evicted.
SHORT_S, LONG_S = (8, 18), (18, 28)


class Strike:
    def __init__(self, at, kind, duration, chance):
        self.at, self.kind, self.duration, self.chance = at, kind, duration, chance
        # The node to strike, where it matters which.
        self.target = None


def plan(chance, kinds):
    """Kinds that may cross, how long their faults go on, and the strikes."""
    pool, chosen = [kind for kind in KINDS if kind in kinds], []
    for _ in range(chance.randint(3, 5)):
        fitting = [
            kind for kind in pool
            if kind not in chosen
            and not (kind in LOSSES and LOSSES & set(chosen))
        ]  # fmt: skip
        if fitting:
            chosen.append(chance.choice(fitting))
    seconds = chance.uniform(*(LONG_S if EVICTIONS & set(chosen) else SHORT_S))
    strikes, at, lost = [], chance.uniform(0.5, 2), False
    # What takes long, or comes once, comes first; then whatever is drawn, less often where members are evicted.
    first = [kind for kind in chosen if kind in EVICTIONS | LOSSES]
    while at < seconds and chosen:
        kind = first.pop() if first else chance.choices(chosen, [KINDS[kind] for kind in chosen])[0]
        if kind not in LOSSES or not lost:
            duration = chance.choice([0.2, 0.5, 1, 2, 3, 5])
            strikes.append(Strike(at, kind, duration, random.Random(chance.random())))
            lost = lost or kind in LOSSES
        at += chance.expovariate(1 / (3 if EVICTIONS & set(chosen) else 1.8))
    return chosen, seconds, strikes


class Nemesis:
    def __init__(self, cluster, shared, kinds, strikes, seconds):
        self.kinds = kinds
        self.cluster, self.shared, self.history = cluster, shared, shared.history
        self.due, self.order, self.seconds = [], itertools.count(), seconds
        self.lost, self.evictions, self.retiring, self.refusals = [], {}, set(), {}
        # The ids that went with a disk, by the node that came back without it.
        self.wiped = {}
        # The ids of nodes when an old copy took the place of their disk.
        self.copied = {}
        self.advised = 0
        self.healed = 0
        # The directions that each strike blocks at the moment.
        self.partitions = {}
        for strike in strikes:
            self.later(strike.at, self.begin, strike)

    def later(self, at, act, *values):
        heapq.heappush(self.due, (at, next(self.order), act, values))

    def run(self):
        self.began = time.monotonic()
        while self.elapsed < self.seconds and not self.shared.stopped.is_set():
            if self.due and self.due[0][0] <= self.elapsed:
                _, _, act, values = heapq.heappop(self.due)
                act(*values)
            else:
                self.shared.stopped.wait(0.02)

    @property
    def elapsed(self):
        return time.monotonic() - self.began

    def begin(self, strike):
        getattr(self, strike.kind)(strike)

    def tell(self, fault, **values):
        self.history.add("fault", fault=fault, **values)

    def end_after(self, strike, act, *values):
        self.later(self.elapsed + strike.duration, act, *values)

    def free(self):
        """Nodes that run, and to which nothing is being done."""
        return [node for node in self.cluster.present() if node.running and node.strike is None]

    def victim(self, strike, least=2):
        """A node to strike, marked as struck; none where fewer than so many run untouched."""
        free = self.free()
        if len(free) < least:
            return None
        node = strike.target if strike.target in free else strike.chance.choice(free)
        node.strike = strike
        return node

    # Network

    def partition(self, strike):
        chance, names = strike.chance, [node.name for node in self.cluster.present()]
        chance.shuffle(names)
        shape = chance.choice(["halves", "halves", "one", "one", "one way", "bridge"])
        at = 1 if shape == "one" else chance.randint(1, max(1, len(names) - 1))
        here, there = names[:at], names[at:]
        if shape == "bridge" and len(there) > 1:
            there = there[1:]
        directions = {(a, b) for a in here for b in there}
        if shape != "one way":
            directions |= {(b, a) for a, b in directions}
        reset = chance.random() < 0.5
        self.tell("partition", shape=shape, here=here, there=there, reset=reset)
        self.cut_off(strike, directions, reset)
        self.end_after(strike, self.heal, strike)

    def cut_off(self, strike, directions, reset=False):
        self.partitions[strike] = directions
        self.cluster.block(set().union(*self.partitions.values()), reset)

    def heal(self, strike):
        """Ends the partition of a strike; those of others stay."""
        self.partitions.pop(strike)
        self.cluster.block(set().union(*self.partitions.values()))
        self.tell("heal", left=len(self.partitions))

    def isolate(self, strike, node):
        others = [other for other in self.cluster.present() if other is not node]
        self.cut_off(strike, {(node.name, other.name) for other in others} | {(other.name, node.name) for other in others})

    def cut(self, strike):
        if node := self.victim(strike):
            self.tell("cut", node=node.name, status=node.ask("POST", "/v1/pool/links", {"cut": True}).status)
            node.cut = True
            self.end_after(strike, self.uncut, strike, node)

    def uncut(self, strike, node):
        if node.strike is strike:
            self.tell("uncut", node=node.name, status=node.ask("POST", "/v1/pool/links", {"cut": False}).status)
            node.cut, node.strike = False, None

    # Processes

    def pause(self, strike):
        if node := self.victim(strike):
            self.tell("pause", node=node.name)
            self.cluster.pause(node)
            self.end_after(strike, self.resume, strike, node)

    def resume(self, strike, node):
        if node.strike is strike:
            self.tell("resume", node=node.name)
            self.cluster.resume(node)
            node.strike = None

    def kill(self, strike):
        nodes = self.free() if strike.chance.random() < 0.15 else [self.victim(strike)]
        for node in filter(None, nodes):
            node.strike = strike
            self.tell("kill", node=node.name)
            self.cluster.kill(node)
            self.end_after(strike, self.start, strike, node)

    def start(self, strike, node, *flags):
        if node.strike is strike:
            self.tell("start", node=node.name, flags=flags)
            self.cluster.start(node, *flags)
            node.strike, self.shared.fresh = None, node
            self.later(self.elapsed + FRESH_S, self.no_longer_fresh, node)

    def no_longer_fresh(self, node):
        if self.shared.fresh is node:
            self.shared.fresh = None

    def restart(self, strike):
        if node := self.victim(strike):
            self.tell("stop", node=node.name, ended=self.cluster.stop(node))
            self.start(strike, node)

    def move(self, strike):
        """A node comes back at other addresses."""
        if node := self.victim(strike):
            self.cluster.kill(node)
            self.cluster.move(node)
            if node.name in self.wiped:
                # Nobody comes up any more where it was, so an operator has to evict the id that went with its disk.
                self.evictions[self.wiped[node.name]] = node
            self.tell("move", node=node.name)
            self.end_after(strike, self.start, strike, node)

    # Members

    def join(self, strike):
        if len(self.cluster.present()) < NODES_MAX:
            node = self.cluster.add()
            self.tell("join", node=node.name)
            self.cluster.start(node)

    def evict(self, strike):
        """A node that is away is evicted, and comes back."""
        if node := self.victim(strike, 3):
            way = strike.chance.choice(["partition", "pause", "kill"])
            pool = node.pool()
            if pool is None:
                node.strike = None
                return
            self.tell("evict", node=node.name, id=pool["node"], way=way)
            if way == "partition":
                self.isolate(strike, node)
            elif way == "pause":
                self.cluster.pause(node)
            else:
                self.cluster.kill(node)
            until = self.elapsed + EVICT_PATIENCE_S
            self.later(self.elapsed + 1, self.ask_eviction, strike, node, pool["node"], until, lambda: self.come_back(strike, node))

    def ask_eviction(self, strike, node, member, until, then):
        """Asks again and again, until it is taken or the time is over; then the strike goes on."""
        if self.eviction_taken(node, member, strike.chance) or self.elapsed > until:
            self.later(self.elapsed + strike.duration, then)
        else:
            self.later(self.elapsed + 0.5, self.ask_eviction, strike, node, member, until, then)

    def eviction_taken(self, node, member, chance, sure=False):
        """Whether a node takes the eviction. An operator who is sure that no other part of the pool decides otherwise uses force
        where he is told that those who remain are no majority."""
        others = [other for other in self.free() if other is not node and not self.retired(other)]
        if not others:
            return False
        other = chance.choice(others)
        force = "?force=true" if sure and self.refusals.get(member) == "no-majority" else ""
        answer = other.ask("DELETE", f"/v1/pool/members/{member}{force}", timeout=3)
        if self.refusals.get(member) != answer.problem:
            self.tell("eviction", node=node.name, id=member, at=other.name, status=answer.status, problem=answer.problem)
        self.refusals[member] = answer.problem
        return answer.ok or answer.status == 404

    def come_back(self, strike, node):
        """The evicted node is there again; at once, or a little later, it or another is struck anew."""
        if strike in self.partitions:
            self.heal(strike)
        if not node.running:
            self.start(strike, node)
        self.resume(strike, node)
        crossing = [kind for kind in ("kill", "restart", "retire", "leave", "evict") if kind in self.kinds]
        if crossing and strike.chance.random() < 0.7:
            kind = strike.chance.choice(crossing)
            again = Strike(None, kind, strike.duration, random.Random(strike.chance.random()))
            again.target = node if kind in ("retire", "leave") else None
            self.later(self.elapsed + strike.chance.choice([0, 0.2, 0.5, 1, 2, 3]), self.begin, again)

    def gone(self, strike):
        """A node is lost with its disk, and evicted; a fresh one takes its place."""
        if (node := self.victim(strike, 3)) and (pool := node.pool()):
            self.lose(node)
            self.evictions[pool["node"]] = node
            until = self.elapsed + EVICT_PATIENCE_S
            self.ask_eviction(strike, node, pool["node"], until, lambda: self.replace(strike, pool["node"]))
        elif node:
            node.strike = None

    def replace(self, strike, member):
        if self.refusals[member] == "":
            self.join(strike)

    def lose(self, node):
        """Kills a node for good; its disk is gone."""
        self.cluster.kill(node)
        node.gone = True
        self.note_loss(node, 0)
        self.tell("gone", node=node.name)

    def note_loss(self, node, since):
        self.lost.append({"node": node.name, "from": since, "to": self.history.now()})
        self.shared.epoch += 1

    def retire(self, strike):
        """An operator takes a node out of the pool that is linked to the others; a fresh one takes its place."""
        if not (node := self.victim(strike, 3)):
            return
        pool = node.pool()
        answer = node.ask("DELETE", f"/v1/pool/members/{pool['node']}?wait=2&timeout=5s", timeout=8) if pool else None
        self.tell("retire", node=node.name, status=answer and answer.status)
        if answer is None or 400 <= answer.status < 500:
            node.strike = None
            return
        self.retiring.add(node.name)
        if answer.status != 200:
            # Nobody may have heard of it yet: it stays up until all is healed.
            return
        self.later(self.elapsed + 1 + strike.duration, self.take_out, strike, node)

    def take_out(self, strike, node):
        self.tell("taken out", node=node.name)
        self.cluster.kill(node)
        node.gone = True
        self.join(strike)

    def leave(self, strike):
        """A node that runs with --leave is told to stop, and a fresh one takes its place.

        Where partitions may cross this it may be cut off at that moment: it cannot tell anybody, and comes back with its disk.
        """
        if node := self.victim(strike, 3):
            if "--leave" not in node.flags:
                self.cluster.stop(node)
                self.tell("restart to leave", node=node.name)
                self.cluster.start(node, "--leave")
            unheard = bool({"partition", "cut"} & set(self.kinds)) and strike.chance.random() < 0.5
            self.later(self.elapsed + 2 + strike.duration, self.stop_for_good, strike, node, unheard)

    def stop_for_good(self, strike, node, unheard):
        if unheard:
            self.isolate(strike, node)
            self.later(self.elapsed + 1, self.stop_unheard, strike, node)
            return
        heard = self.left(strike, node)
        if not heard or strike.kind == "rejoin":
            self.start(strike, node)
        else:
            node.gone = True
            self.join(strike)

    def left(self, strike, node):
        """Stops the node; whether it says that it has left the pool. Who stops without that keeps the disk."""
        ended = self.cluster.stop(node)
        heard = self.cluster.said(node, "it has left the pool")
        self.tell("left" if heard else "left unheard", node=node.name, ended=ended, code=node.process.returncode)
        return heard

    def stop_unheard(self, strike, node):
        self.left(strike, node)
        self.heal(strike)
        self.start(strike, node)

    def rejoin(self, strike):
        """A node leaves, and comes back with the disk that it had."""
        self.leave(strike)

    # Disks

    def wipe(self, strike):
        """A node loses its disk, and comes back with an empty one at the same address."""
        if (node := self.victim(strike, 3)) and (pool := node.pool()):
            self.wiped[node.name] = pool["node"]
            self.cluster.kill(node)
            self.cluster.set_aside(node)
            self.note_loss(node, 0)
            self.tell("wipe", node=node.name)
            self.end_after(strike, self.start, strike, node)
        elif node:
            node.strike = None

    def oldcopy(self, strike):
        """A node's disk is copied while it is down; some time later the copy takes the place of the disk.

        Every other time no client asks the node between the two, so that it has issued nothing that could give the copy away.
        """
        if node := self.victim(strike, 3):
            self.cluster.kill(node)
            self.cluster.copy(node)
            since = self.history.now()
            node.shunned = strike.chance.random() < 0.5
            self.tell("copy", node=node.name, quiet=node.shunned)
            self.cluster.start(node)
            self.end_after(strike, self.put_back, strike, node, since)

    def put_back(self, strike, node, since):
        if pool := node.pool():
            # It may come back as another, and leave before it has replaced the member that it was.
            self.copied[node.name] = pool["node"]
        self.cluster.kill(node)
        self.cluster.put_back(node)
        node.shunned = False
        self.note_loss(node, since)
        self.tell("old copy", node=node.name, since=since)
        self.start(strike, node)

    def twin(self, strike):
        """A copy of a node's disk is started beside the node; both take writes."""
        if len(self.cluster.present()) < NODES_MAX and (node := self.victim(strike)):
            self.cluster.kill(node)
            other = self.cluster.twin(node)
            self.tell("twin", node=node.name, twin=other.name)
            self.cluster.start(other)
            self.start(strike, node)

    # The end of all faults

    def heal_all(self):
        """All links work, and all nodes run that are not gone; members that are gone for good are evicted."""
        self.cluster.block([])
        for node in self.cluster.present():
            self.cluster.resume(node)
            if not node.running:
                self.cluster.start(node)
            if node.cut:
                node.ask("POST", "/v1/pool/links", {"cut": False})
            node.strike, node.shunned = None, False
        self.healed = time.monotonic()
        self.tell("all healed")

    def evict_gone(self, chance):
        """Whether all members that are gone for good are evicted by now; asks for it where not."""
        # Members that no node replaces: what came up in the place of a lost disk has left itself, or those who left since are
        # needed for a majority.
        late = time.monotonic() > self.healed + REPLACED_S
        for node in self.cluster.nodes:
            if node.name in self.wiped and (late or node.gone or self.retired(node)):
                self.evictions[self.wiped.pop(node.name)] = node
            if node.name in self.copied and (node.gone or self.retired(node)):
                self.evictions[self.copied.pop(node.name)] = node
        taken = {member for member, node in self.evictions.items() if self.eviction_taken(node, member, chance, sure=True)}
        self.evictions = {member: node for member, node in self.evictions.items() if member not in taken}
        return not self.evictions

    def follow_advice(self, pools):
        """What an operator does where finality stands still long after all faults, by docs/operations.md: at one node that is not being
        evicted, evict by force the members that hold finality back and do not run, and those that are being evicted."""
        if time.monotonic() < self.healed + ADVICE_S or time.monotonic() < self.advised + ADVICE_EVERY_S:
            return
        running = {pool["node"] for pool in pools.values() if pool}
        held = {name: pool["held_back_by"] for name, pool in pools.items() if pool and pool["state"] == "member"}
        evicted = {one["member"] for holdups in held.values() for one in holdups if one["why"] == "eviction"}
        remaining = [name for name in held if pools[name]["node"] not in evicted]
        for name in remaining[:1]:
            at = next(node for node in self.cluster.nodes if node.name == name)
            gone = {one["member"] for one in held[name] if one["member"] not in running or one["why"] == "eviction"}
            for member in gone:
                answer = at.ask("DELETE", f"/v1/pool/members/{member}?force=true", timeout=3)
                self.tell("advice", node=name, id=member, status=answer.status)
            self.advised = time.monotonic()

    def retired(self, node):
        """Whether the node was asked to retire, and stays up as one that has."""
        return node.name in self.retiring
