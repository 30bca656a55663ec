//! Membership as one agreed sequence of views, explored: every history of three nodes within bounds, and random histories
//! of four and five. A design that was compared with the rules of `finality_model.rs`; docs/membership.md says how it went.
//!
//! Each view after the first is decided once, by single-decree Paxos among the members of the one before. What a member
//! promised and accepted is on its disk. A promise tells the proposer what the member holds, which is how a view is
//! flushed: for each member that it removes, the view says how many of its ops belong to the log, the *cut*, and carries
//! them. It says also the time after which newcomers begin. An announcement speaks in one view: of its sender's clock and
//! of what that holds. Up to a time all is final once every member of the view has announced that it is past it, and that
//! it holds all until then which the node itself holds.
//!
//! A partition is a delivery that never happens. A request and its answer are one step; what was said earlier and comes
//! later is left out, but for a promise that the proposer uses late. Left out too: causal delivery, keys, snapshots.

use std::{array, collections::HashMap, time::Instant};

use stateright::{Checker, HasDiscoveries, Model, Property, UniformChooser};

/// How far a clock leaps when its node starts again.
const LEAP: u8 = 1;
/// The most nodes of a pool.
const MOST: usize = 5;

const AGREE: &str = "the final ops of any two nodes are prefixes of one another";
const NONE_LATE: &str = "no op is taken at or below the frontier";
const KEPT: &str = "no view takes away what is final";
const ONE: &str = "a view is decided once";
const LIVE: &str = "a majority of the view finishes what is under way, and all becomes final";
const REMOVED: &str = "a view without the dead is taken over, and something is final in it";
const JOINED: &str = "an op of the newcomer becomes final at another member";
const FAILURES: [&str; 5] = [AGREE, NONE_LATE, KEPT, ONE, LIVE];

/// A rule that is left out is found sooner than this.
const STATES_MAX: usize = 400_000;
/// How many states a random exploration visits.
const WALK: usize = 30_000;

const THREE: Pool<3> =
    Pool { members: 3, writes: [0; MOST], ballots: 1, deaths: 0, restarts: 0, copies: 0, left_out: &[] };

#[test]
fn a_member_is_removed_while_all_write() {
    check(Pool { members: 2, writes: [1, 1, 0, 0, 0], ..THREE }, &[]);
}

#[test]
fn a_node_joins_and_writes() {
    check(Pool { members: 2, writes: [1, 0, 1, 0, 0], ..THREE }, &[JOINED]);
}

#[test]
fn a_rule_left_out_is_noticed() {
    let writing = Pool { writes: [1, 1, 0, 0, 0], ..THREE };
    let joining = Pool { members: 2, writes: [1, 0, 1, 0, 0], ..THREE };
    let two = Pool { ballots: 2, ..THREE };
    for (pool, rule) in [
        (two, &[Rule::TakeAccepted]),
        (two, &[Rule::PromiseBinds]),
        (two, &[Rule::Majority]),
        (Pool { restarts: 1, ..two }, &[Rule::AcceptorStored]),
        (joining, &[Rule::ClockFrozen]),
        (writing, &[Rule::HeldFrozen]),
        (writing, &[Rule::CutBinds]),
        (writing, &[Rule::ViewCarries]),
        (joining, &[Rule::StartAbove]),
        (writing, &[Rule::OpsBeforeAnnouncement]),
        (writing, &[Rule::HeldByAll]),
        (Pool { ballots: 0, writes: [1, 1, 1, 0, 0], copies: 1, ..THREE }, &[Rule::OldCopyRefused]),
    ] {
        let found = contradiction(Pool { left_out: rule, ..pool });
        println!("without {rule:?}: {found:?}");
        assert!(found.is_some(), "{rule:?}");
    }
    // One that has not promised must lag, which takes three members and a newcomer.
    let joining = Pool::<4> { members: 3, writes: [0, 0, 0, 1, 0], ballots: 1, ..Pool::default() };
    let found = contradiction(Pool { left_out: &[Rule::AnnouncedInView], ..joining });
    println!("without AnnouncedInView: {found:?}");
    assert!(found.is_some());
}

#[test]
fn a_removal_and_a_restart_hold() {
    check(THREE, &[]);
    check(Pool { deaths: 1, ..THREE }, &[]);
    check(Pool { members: 2, restarts: 1, ..THREE }, &[]);
}

/// An old copy that has forgotten a promise can decide a view twice: a limit of this design, as of the other one.
#[test]
fn an_old_copy_of_a_disk_that_forgot_a_promise_decides_twice() {
    let found = contradiction(Pool { ballots: 2, copies: 1, ..THREE });
    println!("an old copy: {found:?}");
    assert_eq!(found.map(|(broken, _)| broken), Some(ONE));
}

/// Without that, an old copy whose node had issued nothing since is found out.
#[test]
fn an_old_copy_of_a_disk_that_writes_too_early() {
    walk(Pool { ballots: 0, writes: [1, 1, 1, 0, 0], copies: 1, ..THREE }, 4 * WALK);
}

#[test]
fn larger_pools_on_random_ways() {
    walk(Pool::<4> { members: 3, writes: [1; MOST], ballots: 3, deaths: 1, restarts: 1, ..Pool::default() }, WALK);
    walk(Pool::<5> { members: 4, writes: [1; MOST], ballots: 4, deaths: 1, restarts: 2, ..Pool::default() }, WALK);
    walk(Pool::<5> { members: 5, writes: [1; MOST], ballots: 4, deaths: 2, restarts: 2, ..Pool::default() }, WALK);
}

/// A rule that the exploration can leave out, to show that it would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// A proposer takes the value that the latest of its promises tells of.
    TakeAccepted,
    /// A member that has promised accepts nothing of an earlier ballot.
    PromiseBinds,
    /// A majority of the view promises, and accepts.
    Majority,
    /// What a member has promised and accepted is on its disk.
    AcceptorStored,
    /// A member that has promised announces no later clock in that view.
    ClockFrozen,
    /// Nor does it announce that it holds more.
    HeldFrozen,
    /// Who takes over a view drops what is beyond its cut, and takes no more of it.
    CutBinds,
    /// A view carries the ops up to its cut.
    ViewCarries,
    /// Clocks begin in a view above those of the promising members.
    StartAbove,
    /// An announcement counts in its view only.
    AnnouncedInView,
    /// An announcement counts once the sender's ops that it speaks of are held.
    OpsBeforeAnnouncement,
    /// Every member of the view has announced that it holds what is to be final.
    HeldByAll,
    /// An op at or below its origin's announcement, or below the frontier, proves an old copy of a disk.
    OldCopyRefused,
}

/// The bounds of an exploration.
#[derive(Clone, Copy, Debug, Default)]
struct Pool<const N: usize> {
    /// How many members the first view has.
    members: usize,
    writes: [u8; MOST],
    /// How many ballots there may be.
    ballots: u8,
    deaths: u8,
    restarts: u8,
    /// How often a node may start again with an old copy of its disk.
    copies: u8,
    left_out: &'static [Rule],
}

/// What a ballot is about, and what is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct View<const N: usize> {
    members: [bool; N],
    /// How many ops of each removed member belong to the log.
    cut: [Option<u8>; N],
    start: u8,
}

/// What a member says of itself in a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Announcement<const N: usize> {
    clock: u8,
    held: [u8; N],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ballot<const N: usize> {
    number: u8,
    /// The members that it would have.
    members: [bool; N],
    promised: [bool; N],
    accepted: [bool; N],
    /// The latest ballot of which a promise told, and its value.
    found: Option<(u8, View<N>)>,
    /// What the promising members hold, and their latest clock.
    cut: [u8; N],
    start: u8,
    /// The value, once it is fixed.
    value: Option<View<N>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Node<const N: usize> {
    joined: bool,
    down: bool,
    held: [u8; N],
    clock: u8,
    frontier: u8,
    /// Its view, as the place in [`World::views`].
    view: u8,
    /// As a member that decides the next one: the ballot it promised, and what it accepted.
    promised: u8,
    accepted: Option<(u8, View<N>)>,
    /// What it announces since its promise.
    frozen: Option<Announcement<N>>,
    /// What others announced in this view. No disk has it.
    heard: [Option<Announcement<N>>; N],
    /// The ballot that it conducts. No disk has it.
    ballot: Option<Ballot<N>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World<const N: usize> {
    /// The times of each node's ops.
    ops: [Vec<u8>; N],
    nodes: [Node<N>; N],
    /// The decided ones.
    views: Vec<View<N>>,
    ballots: u8,
    deaths: u8,
    restarts: u8,
    copies: u8,
    copy: Option<(usize, Node<N>)>,
    took_late: bool,
    lost_final: bool,
    decided_twice: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Write {
        by: usize,
    },
    Take {
        to: usize,
        origin: usize,
    },
    Hear {
        to: usize,
        from: usize,
    },
    /// Asks for a view with or without this member.
    Propose {
        by: usize,
        change: usize,
    },
    Promise {
        by: usize,
        to: usize,
    },
    Accept {
        by: usize,
        to: usize,
    },
    Learn {
        to: usize,
        from: usize,
    },
    Join {
        newcomer: usize,
        through: usize,
    },
    Die {
        at: usize,
    },
    Restart {
        at: usize,
    },
    Copy {
        at: usize,
    },
    GoBack {
        at: usize,
    },
    Refuse {
        origin: usize,
    },
}

impl<const N: usize> Node<N> {
    fn is_up(&self) -> bool {
        self.joined && !self.down
    }

    fn start(&mut self, stored: bool) {
        (self.heard, self.ballot) = ([None; N], None);
        self.clock += LEAP;
        if !stored {
            (self.promised, self.accepted, self.frozen) = (0, None, None);
        }
    }
}

impl<const N: usize> World<N> {
    fn members(&self, at: usize) -> [bool; N] {
        self.views[self.nodes[at].view as usize].members
    }

    /// Whether a node takes part in its view.
    fn is_member(&self, at: usize) -> bool {
        self.nodes[at].is_up() && self.members(at)[at]
    }

    fn is_whole(&self, at: usize) -> bool {
        self.nodes[at].held[at] as usize == self.ops[at].len()
    }

    /// Whether an old copy tells less than the disk, and others hold the ops of the node that it lacks: else it would
    /// issue others in their places, which is found out in another way.
    fn can_go_back(&self, at: usize, copy: &Node<N>) -> bool {
        let own = self.nodes[at].held[at];
        let kept = (0..N).any(|other| other != at && self.nodes[other].is_up() && self.nodes[other].held[at] == own);
        *copy != self.nodes[at] && (copy.held[at] == own || kept)
    }

    /// How many ops of `origin` belong to the log, as far as a node knows.
    fn limit(&self, at: usize, origin: usize) -> u8 {
        let known = &self.views[..=self.nodes[at].view as usize];
        known.iter().filter_map(|view| view.cut[origin]).min().unwrap_or(u8::MAX)
    }

    /// The node comes to hold so many ops of `origin`.
    fn hold(&mut self, at: usize, origin: usize, seq: u8) {
        let node = &mut self.nodes[at];
        for time in &self.ops[origin][node.held[origin].min(seq) as usize..seq as usize] {
            self.took_late |= *time <= node.frontier;
            node.clock = node.clock.max(*time);
        }
        node.held[origin] = node.held[origin].max(seq);
    }

    /// The members that are up and in the same view, which alone decide the next one.
    fn deciders(&self, view: u8) -> impl Iterator<Item = usize> {
        (0..N).filter(move |&at| self.is_member(at) && self.nodes[at].view == view)
    }
}

fn is_majority<const N: usize>(some: [bool; N], all: [bool; N]) -> bool {
    let count = |of: [bool; N]| of.iter().filter(|is| **is).count();
    2 * count(array::from_fn(|at| some[at] && all[at])) > count(all)
}

impl<const N: usize> Model for Pool<N> {
    type State = World<N>;
    type Action = Step;

    fn init_states(&self) -> Vec<World<N>> {
        let node = |at| Node {
            joined: at < self.members,
            down: false,
            held: [0; N],
            clock: 0,
            frontier: 0,
            view: 0,
            promised: 0,
            accepted: None,
            frozen: None,
            heard: [None; N],
            ballot: None,
        };
        vec![World {
            ops: array::from_fn(|_| vec![]),
            nodes: array::from_fn(node),
            views: vec![View { members: array::from_fn(|at| at < self.members), cut: [None; N], start: 0 }],
            ballots: 0,
            deaths: 0,
            restarts: 0,
            copies: 0,
            copy: None,
            took_late: false,
            lost_final: false,
            decided_twice: false,
        }]
    }

    fn actions(&self, world: &World<N>, steps: &mut Vec<Step>) {
        self.deliveries(world, steps);
        self.decisions(world, steps);
        for at in (0..N).filter(|&at| world.nodes[at].is_up()) {
            if world.is_member(at) && world.is_whole(at) {
                steps.extend((world.ops[at].len() < self.writes[at] as usize).then_some(Step::Write { by: at }));
            }
            if world.is_member(at) && world.ballots < self.ballots {
                steps.extend(Self::changes(world, at).map(|change| Step::Propose { by: at, change }));
            }
            steps.extend((world.restarts < self.restarts).then_some(Step::Restart { at }));
            steps.extend((world.deaths < self.deaths).then_some(Step::Die { at }));
            match world.copy {
                None if world.copies < self.copies => steps.push(Step::Copy { at }),
                Some((of, copy)) if of == at && world.can_go_back(at, &copy) => steps.push(Step::GoBack { at }),
                _ => {}
            }
        }
    }

    fn next_state(&self, world: &World<N>, step: Step) -> Option<World<N>> {
        let mut world = world.clone();
        self.carry_out(&mut world, step);
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(AGREE, |_, world: &World<N>| {
                let until = |at: usize, of: usize, time: u8| {
                    world.ops[of][..world.nodes[at].held[of] as usize].iter().filter(|op| **op <= time).count()
                };
                let joined: Vec<usize> = (0..N).filter(|&at| world.nodes[at].joined).collect();
                let frontier = |at: usize| world.nodes[at].frontier;
                let same = |x: usize, y: usize| (0..N).all(|of| until(x, of, frontier(x)) == until(y, of, frontier(x)));
                joined.iter().all(|&x| joined.iter().all(|&y| frontier(y) < frontier(x) || same(x, y)))
            }),
            Property::always(NONE_LATE, |_, world: &World<N>| !world.took_late),
            Property::always(KEPT, |_, world: &World<N>| !world.lost_final),
            Property::always(ONE, |_, world: &World<N>| !world.decided_twice),
            Property::always(LIVE, |pool: &Self, world: &World<N>| pool.goes_on(world)),
            Property::sometimes(REMOVED, |_, world: &World<N>| {
                let is_final = |at: usize, of: usize| {
                    world.ops[of][..world.nodes[at].held[of] as usize].iter().any(|op| *op <= world.nodes[at].frontier)
                };
                (0..N).any(|at| {
                    let gone = (0..N).any(|other| world.nodes[other].down && !world.members(at)[other]);
                    gone && (0..N).any(|of| is_final(at, of))
                })
            }),
            Property::sometimes(JOINED, |_, world: &World<N>| {
                let of_newcomer = |node: &Node<N>| {
                    world.ops[N - 1][..node.held[N - 1] as usize].iter().any(|op| *op <= node.frontier)
                };
                world.nodes[..N - 1].iter().any(of_newcomer)
            }),
        ]
    }
}

impl<const N: usize> Pool<N> {
    fn asks(&self, rule: Rule) -> bool {
        !self.left_out.contains(&rule)
    }

    fn is_majority(&self, some: [bool; N], all: [bool; N]) -> bool {
        is_majority(some, all) || !self.asks(Rule::Majority) && some.contains(&true)
    }

    /// Whom a member can ask to be added or removed: itself too, which is how it retires.
    fn changes(world: &World<N>, by: usize) -> impl Iterator<Item = usize> {
        let members = world.members(by);
        let alone = members.iter().filter(|is| **is).count() == 1;
        let fresh = (0..N).find(|&at| !world.nodes[at].joined && world.views.iter().all(|view| !view.members[at]));
        (0..N).filter(move |&at| members[at] && !alone || fresh == Some(at))
    }

    /// What a node announces in its view.
    fn announcement(&self, node: &Node<N>) -> Announcement<N> {
        let now = Announcement { clock: node.clock, held: node.held };
        let Some(frozen) = node.frozen else { return now };
        let clock = if self.asks(Rule::ClockFrozen) { frozen.clock } else { now.clock };
        let held = if self.asks(Rule::HeldFrozen) { frozen.held } else { now.held };
        Announcement { clock, held }
    }

    /// Whether the next op of `origin` proves to a node that its origin has come back with an old copy of its disk.
    fn disproves(&self, world: &World<N>, at: usize, origin: usize) -> bool {
        let node = &world.nodes[at];
        let told = node.heard[origin].map_or(0, |said| said.clock).max(node.frontier);
        let next = world.ops[origin].get(node.held[origin] as usize);
        at != origin && self.copies > 0 && self.asks(Rule::OldCopyRefused) && next.is_some_and(|time| *time <= told)
    }

    /// What can come to each node: ops, announcements, decided views.
    fn deliveries(&self, world: &World<N>, steps: &mut Vec<Step>) {
        for to in (0..N).filter(|&to| world.nodes[to].is_up()) {
            let node = &world.nodes[to];
            let up = || (0..N).filter(|&from| from != to && world.nodes[from].is_up());
            for origin in 0..N {
                let open = node.held[origin] < world.limit(to, origin) || !self.asks(Rule::CutBinds);
                if open && up().any(|from| world.nodes[from].held[origin] > node.held[origin]) {
                    if !self.disproves(world, to, origin) {
                        steps.push(Step::Take { to, origin });
                    } else if world.is_member(origin) {
                        steps.push(Step::Refuse { origin });
                    }
                }
            }
            for from in up() {
                let peer = &world.nodes[from];
                if peer.view > node.view {
                    steps.push(Step::Learn { to, from });
                    break;
                }
            }
            for from in up().filter(|&from| world.members(to)[from]) {
                let peer = &world.nodes[from];
                let said = self.announcement(peer);
                let counts = node.held[from] >= said.held[from] || !self.asks(Rule::OpsBeforeAnnouncement);
                let in_view = peer.view == node.view || !self.asks(Rule::AnnouncedInView);
                let newer = node.heard[from].is_none_or(|heard| said != heard && said.clock >= heard.clock);
                if counts && in_view && newer && world.members(from)[from] && world.is_whole(from) && world.is_whole(to)
                {
                    steps.push(Step::Hear { to, from });
                }
            }
        }
        let joins = |newcomer: &usize, through: usize| {
            !world.nodes[*newcomer].joined && world.is_member(through) && world.members(through)[*newcomer]
        };
        for newcomer in 0..N {
            let through = (0..N).filter(|&through| joins(&newcomer, through));
            steps.extend(through.map(|through| Step::Join { newcomer, through }));
        }
    }

    /// What can be said in the ballots that are under way.
    fn decisions(&self, world: &World<N>, steps: &mut Vec<Step>) {
        for to in (0..N).filter(|&to| world.is_member(to)) {
            let Some(ballot) = world.nodes[to].ballot else { continue };
            for by in world.deciders(world.nodes[to].view) {
                let node = &world.nodes[by];
                if ballot.value.is_none() && node.promised < ballot.number {
                    steps.push(Step::Promise { by, to });
                }
                let open = node.promised <= ballot.number || !self.asks(Rule::PromiseBinds);
                if open && !ballot.accepted[by] && self.is_majority(ballot.promised, world.members(to)) {
                    steps.push(Step::Accept { by, to });
                }
            }
        }
    }

    fn carry_out(&self, world: &mut World<N>, step: Step) {
        let at = match step {
            Step::Write { by } => {
                let node = &mut world.nodes[by];
                node.clock += 1;
                node.held[by] += 1;
                world.ops[by].push(node.clock);
                by
            }
            Step::Take { to, origin } => {
                let seq = world.nodes[to].held[origin] + 1;
                world.hold(to, origin, seq);
                to
            }
            Step::Hear { to, from } => {
                let said = self.announcement(&world.nodes[from]);
                let node = &mut world.nodes[to];
                node.heard[from] = Some(said);
                node.clock = node.clock.max(said.clock);
                to
            }
            Step::Propose { by, change } => {
                world.ballots += 1;
                let mut members = world.members(by);
                members[change] = !members[change];
                Self::propose(world, by, members);
                return;
            }
            Step::Promise { by, to } => return self.promise(world, by, to),
            Step::Accept { by, to } => return self.accept(world, by, to),
            Step::Learn { to, .. } => return self.adopt(world, to),
            Step::Join { newcomer, through } => {
                let Node { held, clock, frontier, view, .. } = world.nodes[through];
                let clock = if self.asks(Rule::StartAbove) { clock } else { 0 };
                world.nodes[newcomer] = Node { joined: true, held, clock, frontier, view, ..world.nodes[newcomer] };
                newcomer
            }
            Step::Die { at } => {
                world.deaths += 1;
                world.nodes[at].down = true;
                (world.nodes[at].heard, world.nodes[at].ballot) = ([None; N], None);
                return;
            }
            Step::Restart { at } => {
                world.restarts += 1;
                world.nodes[at].start(self.asks(Rule::AcceptorStored));
                at
            }
            Step::Copy { at } => {
                world.copies += 1;
                world.copy = Some((at, Node { heard: [None; N], ballot: None, ..world.nodes[at] }));
                return;
            }
            Step::GoBack { at } => {
                let Some((_, copy)) = world.copy.take() else { return };
                world.nodes[at] = copy;
                world.nodes[at].start(true);
                at
            }
            Step::Refuse { origin } => {
                world.nodes[origin].down = true;
                return;
            }
        };
        self.advance(world, at);
    }

    fn propose(world: &mut World<N>, by: usize, members: [bool; N]) {
        let (none, number) = ([false; N], world.ballots);
        let ballot =
            Ballot { number, members, promised: none, accepted: none, found: None, cut: [0; N], start: 0, value: None };
        world.nodes[by].ballot = Some(ballot);
    }

    /// A promise tells what the member holds and what it has accepted; from now on it announces nothing more in this view.
    fn promise(&self, world: &mut World<N>, by: usize, to: usize) {
        let Some(mut ballot) = world.nodes[to].ballot else { return };
        let now = self.announcement(&world.nodes[by]);
        let node = &mut world.nodes[by];
        node.promised = ballot.number;
        let frozen = *node.frozen.get_or_insert(now);
        let (held, accepted) = (node.held, node.accepted);
        for (origin, seq) in held.into_iter().enumerate() {
            ballot.cut[origin] = ballot.cut[origin].max(seq);
            let seq = seq.min(world.limit(to, origin));
            world.hold(to, origin, seq);
        }
        ballot.promised[by] = true;
        ballot.start = ballot.start.max(frozen.clock);
        let latest = accepted.filter(|(number, _)| ballot.found.is_none_or(|(found, _)| found < *number));
        ballot.found = latest.or(ballot.found).filter(|_| self.asks(Rule::TakeAccepted));
        world.nodes[to].ballot = Some(ballot);
        self.advance(world, to);
    }

    /// A member accepts a value, with the ops that it carries. With the last one that it takes it is decided.
    fn accept(&self, world: &mut World<N>, by: usize, to: usize) {
        let Some(mut ballot) = world.nodes[to].ballot else { return };
        let members = world.members(to);
        let own = View {
            members: ballot.members,
            cut: array::from_fn(|at| (members[at] && !ballot.members[at]).then_some(ballot.cut[at])),
            start: if self.asks(Rule::StartAbove) { ballot.start } else { 0 },
        };
        let value = ballot.value.or(ballot.found.map(|(_, value)| value)).unwrap_or(own);
        (ballot.value, ballot.accepted[by]) = (Some(value), true);
        world.nodes[to].ballot = Some(ballot);
        world.nodes[by].promised = world.nodes[by].promised.max(ballot.number);
        world.nodes[by].accepted = Some((ballot.number, value));
        if self.asks(Rule::ViewCarries) {
            value.cut.iter().enumerate().for_each(|(origin, cut)| world.hold(by, origin, cut.unwrap_or(0)));
        }
        self.advance(world, by);
        if self.is_majority(ballot.accepted, members) {
            let next = world.nodes[to].view as usize + 1;
            match world.views.get(next) {
                None => world.views.push(value),
                Some(decided) => world.decided_twice |= *decided != value,
            }
            self.adopt(world, to);
        }
    }

    /// Takes over the next view.
    fn adopt(&self, world: &mut World<N>, at: usize) {
        let view = world.views[world.nodes[at].view as usize + 1];
        for (origin, cut) in view.cut.iter().enumerate() {
            let Some(cut) = *cut else { continue };
            if self.asks(Rule::ViewCarries) {
                world.hold(at, origin, cut);
            }
            let node = &mut world.nodes[at];
            if node.held[origin] > cut && self.asks(Rule::CutBinds) {
                world.lost_final |= world.ops[origin][cut as usize] <= node.frontier;
                node.held[origin] = cut;
            }
        }
        let node = &mut world.nodes[at];
        node.view += 1;
        node.clock = node.clock.max(view.start);
        (node.promised, node.accepted, node.frozen) = (0, None, None);
        (node.heard, node.ballot) = ([None; N], None);
        self.advance(world, at);
    }

    /// Moves the frontier as far as the members of the view allow.
    fn advance(&self, world: &mut World<N>, at: usize) {
        let (node, members) = (&world.nodes[at], world.members(at));
        // A node that has yet to take its own ops back judges nothing.
        if !world.is_member(at) || !world.is_whole(at) {
            return;
        }
        let own = Some(self.announcement(node));
        let said = |member: usize| if member == at { own } else { node.heard[member] };
        let mut until = u8::MAX;
        for member in (0..N).filter(|&member| members[member]) {
            let Some(said) = said(member) else { return };
            until = until.min(said.clock);
            for origin in (0..N).filter(|_| self.asks(Rule::HeldByAll)) {
                let lacks = said.held[origin]..node.held[origin];
                until = lacks.fold(until, |until, seq| until.min(world.ops[origin][seq as usize] - 1));
            }
        }
        world.nodes[at].frontier = until.max(node.frontier);
    }

    /// Whether the pool can go on, where all is delivered: as long as a majority of the last view is up it finishes what
    /// was begun, removes the dead, and then all is final everywhere.
    fn goes_on(&self, world: &World<N>) -> bool {
        let mut steps = vec![];
        self.deliveries(world, &mut steps);
        if !steps.is_empty() || world.nodes.iter().all(|node| !node.is_up() || node.frontier == node.clock) {
            return true;
        }
        let mut world = world.clone();
        for _ in 0..2 * N {
            self.deliver_all(&mut world);
            let Some(top) = (0..N).filter(|&at| world.nodes[at].is_up()).map(|at| world.nodes[at].view).max() else {
                return true;
            };
            let members = world.views[top as usize].members;
            let up = array::from_fn(|at| world.nodes[at].is_up() && members[at]);
            let Some(by) = world.deciders(top).next().filter(|_| is_majority(up, members)) else { return true };
            let begun = (0..N).any(|at| up[at] && world.nodes[at].frozen.is_some());
            if !begun && up == members {
                return (0..N).all(|at| !up[at] || world.nodes[at].frontier == world.nodes[at].clock);
            }
            world.ballots += 1;
            Self::propose(&mut world, by, up);
            for _ in 0..2 * N {
                let mut steps = vec![];
                self.decisions(&world, &mut steps);
                let of_this =
                    |step: &Step| matches!(step, Step::Promise { to, .. } | Step::Accept { to, .. } if *to == by);
                let promise = steps.iter().copied().find(|step| of_this(step) && matches!(step, Step::Promise { .. }));
                let Some(step) = promise.or(steps.into_iter().find(of_this)) else { break };
                self.carry_out(&mut world, step);
            }
        }
        false
    }

    fn deliver_all(&self, world: &mut World<N>) {
        for _ in 0..500 {
            let mut steps = vec![];
            self.deliveries(world, &mut steps);
            let Some(step) = steps.first().copied() else { return };
            self.carry_out(world, step);
        }
    }
}

/// Explores all histories of a pool: nothing contradicts the rules, and what can happen is what is `expected`.
#[track_caller]
fn check<const N: usize>(pool: Pool<N>, expected: &[&str]) {
    let started = Instant::now();
    let checker = pool.checker().finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
    println!("{} states in {:.1?}: {pool:?}", checker.unique_state_count(), started.elapsed());
    let mut found = checker.discoveries();
    for property in expected {
        assert!(found.remove(property).is_some(), "never: {property}");
    }
    found.retain(|property, _| FAILURES.contains(property));
    let found: Vec<_> = found.into_iter().map(|(property, history)| (property, history.into_actions())).collect();
    assert!(found.is_empty(), "{found:#?}");
}

/// The first contradiction on random ways or else in the depth of the histories, and how many states that took.
fn contradiction<const N: usize>(pool: Pool<N>) -> Option<(&'static str, usize)> {
    let checker = |states| pool.checker().finish_when(HasDiscoveries::AnyFailures).target_state_count(states);
    let broken = |found: HashMap<&'static str, _>| FAILURES.into_iter().find(|property| found.contains_key(property));
    let random = checker(STATES_MAX / 4).spawn_simulation(1, UniformChooser).join();
    if let Some(broken) = broken(random.discoveries()) {
        return Some((broken, random.state_count()));
    }
    let deep = checker(STATES_MAX).spawn_dfs().join();
    broken(deep.discoveries()).map(|broken| (broken, deep.unique_state_count()))
}

/// Random histories of a larger pool, the same each time.
#[track_caller]
fn walk<const N: usize>(pool: Pool<N>, states: usize) {
    let started = Instant::now();
    let checker = pool.checker().finish_when(HasDiscoveries::AnyFailures).target_state_count(states);
    let checker = checker.spawn_simulation(1, UniformChooser).join();
    println!("{} states on random ways in {:.1?}: {pool:?}", checker.state_count(), started.elapsed());
    let mut found = checker.discoveries();
    found.retain(|property, _| FAILURES.contains(property));
    let found: Vec<_> = found.into_iter().map(|(property, history)| (property, history.into_actions())).collect();
    assert!(found.is_empty(), "{found:#?}");
}
