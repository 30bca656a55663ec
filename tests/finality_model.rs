//! The rules of finality and membership, explored exhaustively: every history of a pool of three within small bounds.
//!
//! A model of the rules and not of the code that keeps them, which the simulator tests; it uses nothing of the crate.
//! A partition is a delivery that never happens, and so is a death. Left out: links, snapshots in parts, crashes with
//! recovery, a second life under another id. An announcement is heard as its sender would make it at that moment.
//!
//! Where the rules as first written are contradicted, the model has the mended rule, and its [`Rule`] says so. One
//! thing is no contradiction: by their letter the founder cannot be evicted, since every chain of `Add` ops begins with
//! it. Nobody is rooted any more then, and a dead founder stops finality for good. [`Pool::heirs`] is a mend of that.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Property};

const NODES: usize = 3;
/// The founder, a member, and the node that joins through either of them.
const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

const AGREE: &str = "the final ops of any two members are prefixes of one another";
const NONE_LATE: &str = "no op is taken at or below the frontier";
const NONE_BACK: &str = "no frontier goes back";
const EVICTED: &str = "an eviction becomes effective";
const GOES_ON: &str = "an eviction becomes final, at a member";
const FOUNDER: &str = "the eviction of the founder becomes final at a member";
const JOINED: &str = "an op of the newcomer becomes final, at another member";

#[test]
fn finality_holds_while_a_node_joins_and_another_retires() {
    check(Pool { writes: [0, 0, 1], adds: 1, ..Pool::default() }, &[JOINED]);
    check(Pool { writes: [1, 0, 0], adds: 1, retires: 1, ..Pool::default() }, &[JOINED]);
}

#[test]
fn finality_holds_when_a_node_joins_during_an_eviction() {
    check(Pool { adds: 1, evicts: 1, force: true, ..Pool::default() }, &[EVICTED, GOES_ON, JOINED]);
}

#[test]
fn finality_holds_when_one_is_evicted_and_another_retires() {
    let pool = Pool { joined: true, retires: 1, evicts: 1, force: true, ..Pool::default() };
    check(pool, &[EVICTED, GOES_ON, JOINED]);
}

#[test]
fn finality_holds_when_an_evicted_member_goes_on_writing() {
    check(Pool { joined: true, writes: [0, 1, 0], evicts: 1, ..Pool::default() }, &[EVICTED, GOES_ON, JOINED]);
}

#[test]
fn finality_holds_when_members_evict_each_other() {
    check(Pool { joined: true, evicts: 2, ..Pool::default() }, &[EVICTED, GOES_ON, JOINED]);
}

#[test]
fn finality_holds_when_the_founder_can_be_evicted() {
    check(Pool { adds: 1, evicts: 1, heirs: true, ..Pool::default() }, &[EVICTED, GOES_ON, JOINED, FOUNDER]);
    check(Pool { joined: true, evicts: 2, heirs: true, ..Pool::default() }, &[EVICTED, GOES_ON, JOINED, FOUNDER]);
}

#[test]
fn a_rule_left_out_is_noticed() {
    // Forced, an eviction by one alone is effective, which shows the other rules in fewer steps.
    let joining = Pool { adds: 1, evicts: 1, force: true, ..Pool::default() };
    let writing = Pool { writes: [0, 1, 0], ..joining };
    let leaving = Pool { joined: true, writes: [0, 0, 1], retires: 1, evicts: 1, force: true, ..Pool::default() };
    for (pool, rule) in [
        (joining, Rule::Causality),
        (joining, Rule::OpsBeforeAnnouncement),
        (joining, Rule::NewcomerCounts),
        (joining, Rule::FrontierStays),
        (joining, Rule::FencedFromMembers),
        (leaving, Rule::FencedFromRemaining),
        (writing, Rule::EveryFence),
        (Pool { evicts: 2, heirs: true, ..Pool::default() }, Rule::Majority),
        (Pool { joined: true, evicts: 3, heirs: true, ..Pool::default() }, Rule::MajorityOfEach),
        (joining, Rule::Rooted),
        (writing, Rule::OrphanStops),
    ] {
        let found = contradiction(Pool { left_out: Some(rule), ..pool });
        println!("without {rule:?}: {found:?}");
        assert!(found.is_some(), "{rule:?}");
    }
}

/// The largest `k` is held by whoever holds its fence, because of causality: no pool can show that rule alone.
/// A founder that is neither evicted nor retired is on each side that can finish an eviction, so that the majority
/// decides nothing here. Where it does, two sides that count tentative newcomers need one each: that is a fourth node.
/// For a frontier that moves during an eviction no history of three was found either, with more ops than here.
#[test]
fn three_nodes_cannot_show_some_of_the_rules() {
    for rule in [Rule::LargestK, Rule::Majority, Rule::MajorityOfFinal, Rule::FrozenDuringEviction] {
        let pool = Pool { adds: 1, evicts: 1, force: true, left_out: Some(rule), ..Pool::default() };
        assert_eq!(contradiction(pool), None, "{rule:?}");
    }
}

/// A rule that the exploration can leave out, to show that it would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// An op waits for everything its origin held when it issued it.
    Causality,
    /// An announcement counts once the ops it speaks of are held.
    OpsBeforeAnnouncement,
    /// A member counts from its `Add` on, not only once that is final.
    NewcomerCounts,
    /// What is final stays so when a newcomer, which has announced nothing yet, comes to count.
    FrontierStays,
    /// A node does not move its frontier while it knows of an eviction that is not effective.
    FrozenDuringEviction,
    /// A node that has fenced a member takes its ops only from members that it knows and that are not evicted.
    FencedFromMembers,
    /// Mended: it takes them only from those that remain. One that has retired fences nothing, and would pass on what
    /// the evicted member issued after all fences.
    FencedFromRemaining,
    /// Every remaining member has fenced.
    EveryFence,
    /// The evicted member's ops are held up to the largest `k`.
    LargestK,
    /// The remaining members are a majority.
    Majority,
    /// That majority is one of the members whose `Add` is final.
    MajorityOfFinal,
    /// Mended: it is also a majority of each set of members whose `Add` can be final at another member by now. Else one
    /// that lags, and takes itself alone for the pool, can evict all others while they evict it: with the heirs of a
    /// founder that is evicted, or in a pool of four whose founder has retired.
    MajorityOfEach,
    /// A member is taken to remain only if it is rooted.
    Rooted,
    /// Mended: a node that is not rooted does not move its frontier.
    OrphanStops,
}

/// The bounds of an exploration.
#[derive(Clone, Copy, Debug, Default)]
struct Pool {
    /// C is a member from the start, added by B.
    joined: bool,
    /// How many ordinary ops each node may issue.
    writes: [u8; NODES],
    /// How many ops of each other kind there may be.
    adds: usize,
    retires: usize,
    evicts: usize,
    /// An eviction may be forced.
    force: bool,
    /// The founder can be evicted: whose `Add` is final at a node is rooted there, since every member held that `Add`
    /// before it fenced anyone.
    heirs: bool,
    left_out: Option<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Command {
    Write,
    Add { member: usize },
    Retire,
    Evict { member: usize, force: bool },
    Fence { member: usize, k: u8 },
}

/// An op; its origin and its seq are its place in [`World::ops`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Op {
    time: u8,
    /// How many ops of each node its origin held when it issued it.
    seen: [u8; NODES],
    command: Command,
}

/// What a member says of itself; its head is looked up when it is heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Announcement {
    clock: u8,
    complete: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Node {
    joined: bool,
    /// How many ops of each node it holds.
    held: [u8; NODES],
    clock: u8,
    frontier: u8,
    /// The last announcement of each other member that counted here.
    counted: [Announcement; NODES],
    /// Whose eviction is effective here; it stays so.
    effective: [bool; NODES],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    ops: [Vec<Op>; NODES],
    nodes: [Node; NODES],
    /// An op at or below its taker's frontier.
    took_late: bool,
    went_back: bool,
}

impl World {
    /// The ops of `origin` that `at` holds, the first one first.
    fn held(&self, at: usize, origin: usize) -> &[Op] {
        &self.ops[origin][..self.nodes[at].held[origin] as usize]
    }

    /// How many ops of `origin` up to `time` are held at `at`.
    fn held_until(&self, at: usize, origin: usize, time: u8) -> usize {
        self.held(at, origin).iter().filter(|op| op.time <= time).count()
    }

    fn has_final_evict(&self, at: usize) -> bool {
        let is_evict = |op: &Op| matches!(op.command, Command::Evict { .. }) && op.time <= self.nodes[at].frontier;
        (0..NODES).any(|origin| self.held(at, origin).iter().any(is_evict))
    }

    fn issued(&self, is_wanted: impl Fn(&Command) -> bool) -> usize {
        self.ops.iter().flatten().filter(|op| is_wanted(&op.command)).count()
    }

    fn issue(&mut self, by: usize, command: Command) {
        let node = &mut self.nodes[by];
        node.clock += 1;
        self.ops[by].push(Op { time: node.clock, seen: node.held, command });
        node.held[by] += 1;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Issue { by: usize, command: Command },
    Join { through: usize },
    Take { to: usize, from: usize, origin: usize },
    Hear { to: usize, from: usize },
}

impl Model for Pool {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let add = |time, seen, member| Op { time, seen, command: Command::Add { member } };
        let founded = Node { joined: true, held: [1, 0, 0], clock: 1, ..Node::default() };
        let mut world = World {
            ops: [vec![add(1, [0, 0, 0], B)], vec![], vec![]],
            nodes: [founded, founded, Node::default()],
            took_late: false,
            went_back: false,
        };
        if self.joined {
            world.ops[B].push(add(2, [1, 0, 0], C));
            world.nodes = [Node { held: [1, 1, 0], clock: 2, ..founded }; NODES];
        }
        vec![world]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for at in (0..NODES).filter(|&at| world.nodes[at].joined) {
            let view = self.view(world, at);
            for origin in 0..NODES {
                // From whom makes no difference, only whether there is one.
                let from = (0..NODES).find(|&from| view.takes(world, from, origin));
                steps.extend(from.map(|from| Step::Take { to: at, from, origin }));
            }
            if !view.is_member() {
                continue;
            }
            steps.extend(self.commands(world, &view).map(|command| Step::Issue { by: at, command }));
            if !world.nodes[C].joined && view.added[C].is_some() && !view.evicted[C] {
                steps.push(Step::Join { through: at });
            }
            for to in (0..NODES).filter(|&to| to != at && world.nodes[to].joined) {
                let counts = world.nodes[to].held[at] == view.node.held[at] || !self.asks(Rule::OpsBeforeAnnouncement);
                if counts && world.nodes[to].counted[at] != view.announcement() {
                    steps.push(Step::Hear { to, from: at });
                }
            }
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut world = world.clone();
        let at = match step {
            Step::Issue { by, command } => {
                world.issue(by, command);
                by
            }
            // The sponsor may fail between its `Add` and the snapshot: any member that knows of the `Add` can give it.
            Step::Join { through } => {
                let Node { held, clock, frontier, .. } = world.nodes[through];
                world.nodes[C] = Node { joined: true, held, clock, frontier, ..Node::default() };
                C
            }
            Step::Take { to, origin, .. } => {
                let node = &mut world.nodes[to];
                let op = world.ops[origin][node.held[origin] as usize];
                node.held[origin] += 1;
                node.clock = node.clock.max(op.time);
                world.took_late |= op.time <= node.frontier;
                to
            }
            Step::Hear { to, from } => {
                let announcement = self.view(&world, from).announcement();
                let node = &mut world.nodes[to];
                node.counted[from] = announcement;
                node.clock = node.clock.max(announcement.clock);
                to
            }
        };
        self.settle(&mut world, at);
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(AGREE, |pool: &Pool, world: &World| {
                let stands = |at: &usize| {
                    let view = pool.view(world, *at);
                    view.node.joined && view.rooted[*at] && !view.evicted[*at]
                };
                let frontier = |at: usize| world.nodes[at].frontier;
                let same = |x: usize, y: usize| {
                    (0..NODES).all(|of| world.held_until(x, of, frontier(x)) == world.held_until(y, of, frontier(x)))
                };
                let standing = || (0..NODES).filter(stands);
                standing().all(|x| standing().all(|y| frontier(y) < frontier(x) || same(x, y)))
            }),
            Property::always(NONE_LATE, |_, world: &World| !world.took_late),
            Property::always(NONE_BACK, |_, world: &World| !world.went_back),
            Property::sometimes(EVICTED, |_, world: &World| {
                world.nodes.iter().any(|node| node.effective.contains(&true))
            }),
            Property::sometimes(GOES_ON, |_, world: &World| (0..NODES).any(|at| world.has_final_evict(at))),
            Property::sometimes(FOUNDER, |_, world: &World| {
                [B, C].iter().any(|&at| world.nodes[at].effective[A] && world.has_final_evict(at))
            }),
            Property::sometimes(JOINED, |_, world: &World| {
                [A, B].iter().any(|&at| world.held_until(at, C, world.nodes[at].frontier) > 0)
            }),
        ]
    }
}

impl Pool {
    fn asks(&self, rule: Rule) -> bool {
        self.left_out != Some(rule)
    }

    /// What a member may issue of its own accord.
    fn commands(&self, world: &World, view: &View<'_>) -> impl Iterator<Item = Command> {
        let mut commands = vec![];
        if world.ops[view.at].iter().filter(|op| op.command == Command::Write).count() < self.writes[view.at] as usize {
            commands.push(Command::Write);
        }
        if world.issued(|command| *command == Command::Retire) < self.retires {
            commands.push(Command::Retire);
        }
        if world.issued(|command| *command == Command::Add { member: C }) < self.adds && view.added[C].is_none() {
            commands.push(Command::Add { member: C });
        }
        if world.issued(|command| matches!(command, Command::Evict { .. })) < self.evicts {
            for member in (0..NODES).filter(|&member| member != view.at && view.stays(member)) {
                commands.push(Command::Evict { member, force: false });
                commands.extend(self.force.then_some(Command::Evict { member, force: true }));
            }
        }
        commands.into_iter()
    }

    /// What a node does at once after anything has happened to it.
    fn settle(&self, world: &mut World, at: usize) {
        let mut view = self.view(world, at);
        while let Some(fence) = view.owed_fence() {
            world.issue(at, fence);
            view = self.view(world, at);
        }
        // One eviction that becomes effective can make another so: the majority is then one of fewer.
        for member in (0..NODES).cycle().take(NODES * NODES) {
            view.node.effective[member] |= view.is_effective(member);
        }
        let frontier = view.frontier();
        world.went_back |= frontier < view.node.frontier;
        view.node.frontier = frontier;
        view.forget();
        world.nodes[at] = view.node;
    }

    fn view(&self, world: &World, at: usize) -> View<'_> {
        let mut view = View {
            pool: self,
            at,
            node: world.nodes[at],
            added: [Some(0), None, None],
            adds: vec![],
            retired: [false; NODES],
            evicted: [false; NODES],
            forced: [false; NODES],
            fences: [[None; NODES]; NODES],
            rooted: [!self.asks(Rule::Rooted); NODES],
        };
        for by in 0..NODES {
            for (seq, op) in (1..).zip(world.held(at, by)) {
                match op.command {
                    Command::Write => {}
                    Command::Add { member } => {
                        view.adds.push((member, by, seq));
                        view.added[member] = Some(view.added[member].map_or(op.time, |time| time.min(op.time)));
                    }
                    Command::Retire => view.retired[by] = true,
                    Command::Evict { member, force } => {
                        view.evicted[member] = true;
                        view.forced[member] |= force;
                    }
                    Command::Fence { member, k } => view.fences[member][by] = Some(k),
                }
            }
        }
        view.root();
        view
    }
}

/// What a node makes of the ops that it holds.
struct View<'a> {
    pool: &'a Pool,
    at: usize,
    node: Node,
    /// The time of each member's first `Add`: it issues nothing up to there.
    added: [Option<u8>; NODES],
    /// The member, its sponsor and the sponsor's seq of each `Add`.
    adds: Vec<(usize, usize, u8)>,
    retired: [bool; NODES],
    evicted: [bool; NODES],
    forced: [bool; NODES],
    /// How many ops of the first node the second one held when it fenced it.
    fences: [[Option<u8>; NODES]; NODES],
    rooted: [bool; NODES],
}

impl View<'_> {
    fn stays(&self, member: usize) -> bool {
        self.added[member].is_some() && !self.retired[member] && !self.evicted[member]
    }

    /// A node that is not a member any more, as far as it knows, says and issues nothing.
    fn is_member(&self) -> bool {
        self.node.joined && self.stays(self.at)
    }

    fn remains(&self, member: usize) -> bool {
        self.stays(member) && self.rooted[member]
    }

    /// Finds who is rooted, from the founder on: no member can be the ground for its own root.
    fn root(&mut self) {
        self.rooted[A] = true;
        for member in (0..NODES).filter(|_| self.pool.heirs) {
            self.rooted[member] |= self.added[member].is_some_and(|time| time <= self.node.frontier);
        }
        for _ in 0..NODES {
            for &(member, sponsor, seq) in &self.adds {
                let kept = |by: usize| self.remains(by) && self.fences[sponsor][by].is_some_and(|k| k >= seq);
                let passes = !self.evicted[sponsor] || (0..NODES).any(kept);
                self.rooted[member] |= self.rooted[sponsor] && passes;
            }
        }
    }

    /// Whether the next op of `origin` can come here from `from`.
    fn takes(&self, world: &World, from: usize, origin: usize) -> bool {
        let has = from != self.at && world.nodes[from].held[origin] > self.node.held[origin];
        let caused = |op: &Op| op.seen.iter().zip(&self.node.held).all(|(seen, held)| seen <= held);
        let fenced = self.fences[origin][self.at].is_some() && self.pool.asks(Rule::FencedFromMembers);
        let may_relay = self.remains(from)
            || (self.added[from].is_some() && !self.evicted[from] && !self.pool.asks(Rule::FencedFromRemaining));
        has && (caused(&world.ops[origin][self.node.held[origin] as usize]) || !self.pool.asks(Rule::Causality))
            && (!fenced || may_relay)
    }

    fn owed_fence(&self) -> Option<Command> {
        let owed = |member: &usize| self.evicted[*member] && self.fences[*member][self.at].is_none();
        let member = (0..NODES).filter(|_| self.node.joined && self.remains(self.at)).find(owed)?;
        Some(Command::Fence { member, k: self.node.held[member] })
    }

    fn is_effective(&self, member: usize) -> bool {
        let fences = &self.fences[member];
        let asks = |rule| self.pool.asks(rule);
        let remaining = || (0..NODES).filter(|&member| self.remains(member));
        let base = || (0..NODES).filter(|&member| !self.retired[member] && !self.node.effective[member]);
        let is_majority = |until: u8| {
            let is_added = |member: &usize| self.added[*member].is_some_and(|time| time <= until);
            2 * remaining().filter(is_added).count() > base().filter(is_added).count()
        };
        let complete = if asks(Rule::MajorityOfEach) { self.announcement().complete } else { 0 };
        let majority = if asks(Rule::MajorityOfFinal) {
            (self.node.frontier..=complete.max(self.node.frontier)).all(is_majority)
        } else {
            is_majority(u8::MAX)
        };
        self.evicted[member]
            && (remaining().all(|by| fences[by].is_some()) || !asks(Rule::EveryFence))
            && (majority || self.forced[member] || !asks(Rule::Majority))
            && (fences.iter().flatten().all(|&k| k <= self.node.held[member]) || !asks(Rule::LargestK))
    }

    /// The members that count for finality.
    fn counted(&self) -> impl Iterator<Item = usize> {
        (0..NODES).filter(|&member| {
            let final_only = !self.pool.asks(Rule::NewcomerCounts);
            self.added[member].is_some_and(|time| time <= self.node.frontier || !final_only)
                && !self.retired[member]
                && !self.node.effective[member]
        })
    }

    fn announcement(&self) -> Announcement {
        let clock = |member: usize| {
            let added = self.added[member].unwrap_or(0);
            if member == self.at { self.node.clock } else { self.node.counted[member].clock.max(added) }
        };
        Announcement { clock: self.node.clock, complete: self.counted().map(clock).min().unwrap_or(0) }
    }

    fn frontier(&self) -> u8 {
        let pending = (0..NODES).any(|member| self.evicted[member] && !self.node.effective[member]);
        let frozen = pending && self.pool.asks(Rule::FrozenDuringEviction);
        let orphan = !self.rooted[self.at] && self.pool.asks(Rule::OrphanStops);
        if frozen || orphan || !self.is_member() {
            return self.node.frontier;
        }
        let own = self.announcement().complete;
        let complete = |member: usize| if member == self.at { own } else { self.node.counted[member].complete };
        let least = self.counted().map(complete).min().unwrap_or(0);
        if self.pool.asks(Rule::FrontierStays) { least.max(self.node.frontier) } else { least }
    }

    /// Drops what can make no difference any more, so that states that differ in nothing else are one.
    fn forget(&mut self) {
        for (member, announcement) in self.node.counted.iter_mut().enumerate() {
            if self.retired[member] || self.node.effective[member] {
                *announcement = Announcement::default();
            } else if self.pool.asks(Rule::FrontierStays) {
                announcement.complete = announcement.complete.max(self.node.frontier);
            }
        }
        if !self.is_member() {
            self.node.clock = 0;
            self.node.counted = <[Announcement; NODES]>::default();
        }
    }
}

/// Explores all histories of a pool: nothing contradicts the rules, and what can happen is what is `expected`.
#[track_caller]
fn check(pool: Pool, expected: &[&str]) {
    let started = Instant::now();
    let checker = pool.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!("{} states in {:.1?}: {pool:?}", checker.unique_state_count(), started.elapsed());
    let mut found = checker.discoveries();
    for property in expected {
        assert!(found.remove(property).is_some(), "never: {property}");
    }
    let found: Vec<_> = found.into_iter().map(|(property, history)| (property, history.into_actions())).collect();
    assert!(found.is_empty(), "{found:#?}");
}

/// The first contradiction in the depth of the histories, which is found sooner there, and how many states that took.
fn contradiction(pool: Pool) -> Option<(&'static str, usize)> {
    let checker = pool.checker().finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
    let found = checker.discoveries();
    let broken = [AGREE, NONE_LATE, NONE_BACK].into_iter().find(|property| found.contains_key(property));
    broken.map(|property| (property, checker.unique_state_count()))
}
