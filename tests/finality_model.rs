//! The rules of finality and membership, explored: every history of a small pool within bounds, restarts included, and
//! random histories of larger ones.
//!
//! A model of the rules and not of the code that keeps them, which the simulator tests; it uses nothing of the crate.
//! A partition is a delivery that never happens. Left out: links, snapshots in parts, idempotency keys. An announcement
//! is heard as its sender would make it at that moment. A node that comes back under another id is another node here.
//! `views_model.rs` is the same for another design of membership; docs/membership.md compares the two.

use std::{array, collections::HashMap, time::Instant};

use stateright::{Checker, HasDiscoveries, Model, Property, UniformChooser};

/// The founder, a member, and the node that joins through either of them; where there are four, D joins through a member.
const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
/// The most nodes of a pool.
const MOST: usize = 5;
/// How far a clock leaps when its node starts again: past all that it reserved.
const LEAP: u8 = 1;

/// A rule that is left out is found sooner than this.
const STATES_MAX: usize = 400_000;
/// How many states a random exploration visits.
const WALK: usize = 30_000;

const AGREE: &str = "the final ops of any two members are prefixes of one another";
const NONE_LATE: &str = "no op is taken at or below the frontier";
const NONE_BACK: &str = "no frontier goes back";
const LIVE: &str = "once all is delivered all is final, while a majority remains";
const CROSSED: &str = "once all is delivered all is final, while a majority lives, whoever is evicted";
const EVICTED: &str = "an eviction becomes effective";
const GOES_ON: &str = "an eviction becomes final, at a member";
const FOUNDER: &str = "the eviction of the founder becomes final at a member";
const JOINED: &str = "an op of the newcomer becomes final, at another member";

#[test]
fn finality_holds_while_a_node_joins_and_another_retires() {
    check(Pool::<3> { members: 2, fresh: true, writes: [0, 0, 1, 0, 0], adds: 1, ..Pool::default() }, &[JOINED]);
    check(Pool::<3> { members: 2, adds: 1, retires: 1, ..Pool::default() }, &[JOINED]);
}

#[test]
fn finality_holds_when_a_node_joins_during_an_eviction() {
    let pool = Pool::<3> { members: 2, adds: 1, evicts: 1, force: true, ..Pool::default() };
    check(pool, &[EVICTED, GOES_ON, JOINED, FOUNDER]);
}

#[test]
fn finality_holds_when_one_is_evicted_and_another_retires() {
    let pool = Pool::<3> { members: 3, retires: 1, evicts: 1, force: true, ..Pool::default() };
    check(pool, &[EVICTED, GOES_ON]);
}

#[test]
fn finality_holds_when_an_evicted_member_goes_on_writing() {
    check(Pool::<3> { members: 3, writes: [0, 1, 0, 0, 0], evicts: 1, ..Pool::default() }, &[EVICTED, GOES_ON]);
}

#[test]
fn finality_holds_when_members_evict_each_other() {
    check(Pool::<3> { members: 3, evicts: 2, ..Pool::default() }, &[EVICTED, GOES_ON, FOUNDER]);
}

#[test]
fn finality_goes_on_whoever_starts_again() {
    let newcomer_dies = Pool::<3> { members: 3, evicts: 1, dead: true, fresh: true, ..Pool::default() };
    check(Pool { restarts: 2, batches: true, ..newcomer_dies }, &[EVICTED, GOES_ON]);
    check(Pool::<3> { members: 2, adds: 1, restarts: 1, ..Pool::default() }, &[]);
    walk(Pool { restarts: 1, ..REPLACED }, WALK);
    walk(Pool { restarts: 2, batches: true, ..REPLACED }, WALK);
}

/// C is dead and is evicted; D joins meanwhile.
const REPLACED: Pool<4> = Pool {
    members: 3,
    writes: [0; MOST],
    adds: 1,
    retires: 0,
    evicts: 1,
    force: false,
    fresh: false,
    dead: true,
    deaths: 0,
    restarts: 0,
    copies: 0,
    batches: false,
    crossed: false,
    left_out: &[],
};

#[test]
fn the_rules_before_the_repairs_end_finality() {
    let newcomer_dies = Pool::<4> { members: 3, evicts: 1, dead: true, fresh: true, ..Pool::default() };
    for pool in [
        Pool { left_out: &[Rule::EffectiveStays, Rule::VoicesOfEach], ..REPLACED },
        Pool { restarts: 1, left_out: &[Rule::EffectiveStays, Rule::VoicesOfEach], ..REPLACED },
        // What was effective stays so; but who starts again before that, with the newcomer's `Add`, never gets there.
        Pool { restarts: 1, left_out: &[Rule::VoicesOfEach], ..REPLACED },
        Pool { left_out: &[Rule::VoicesOfEach], ..newcomer_dies },
    ] {
        let found = contradiction(pool);
        println!("{found:?}: {pool:?}");
        assert_eq!(found.map(|(broken, _)| broken), Some(LIVE), "{pool:?}");
    }
}

/// No rule resolves this: an operator tells one of the two to give way.
#[test]
fn evictions_that_cross_can_end_finality() {
    let found = contradiction(Pool::<3> { members: 3, evicts: 2, crossed: true, ..Pool::default() });
    println!("crossed: {found:?}");
    assert_eq!(found.map(|(broken, _)| broken), Some(CROSSED));
}

/// An old copy whose node had issued nothing since, and writes before it hears of anyone.
#[test]
fn an_old_copy_of_a_disk_is_found_out() {
    let pool = Pool::<3> { members: 3, writes: [1, 1, 1, 0, 0], copies: 1, ..Pool::default() };
    let found = contradiction(Pool { left_out: &[Rule::OldCopyRefused], ..pool });
    println!("an old copy: {found:?}");
    assert!(found.is_some());
    walk(pool, 4 * WALK);
}

#[test]
fn larger_pools_on_random_ways() {
    let four = Pool::<4> { members: 3, adds: 1, evicts: 2, restarts: 2, deaths: 1, batches: true, ..Pool::default() };
    walk(four, WALK);
    walk(Pool { members: 4, adds: 0, writes: [1; MOST], retires: 1, ..four }, WALK);
    let five = Pool::<5> { members: 3, adds: 2, evicts: 3, restarts: 2, deaths: 1, ..Pool::default() };
    walk(five, WALK);
    walk(Pool { members: 5, adds: 0, deaths: 2, retires: 1, batches: true, ..five }, WALK);
}

#[test]
fn a_rule_left_out_is_noticed() {
    // Forced, an eviction by one alone is effective, which shows the other rules in fewer steps.
    let joining = Pool::<3> { members: 2, fresh: true, adds: 1, evicts: 1, force: true, ..Pool::default() };
    let writing = Pool { writes: [0, 1, 0, 0, 0], ..joining };
    let leaving = Pool { members: 3, writes: [0, 0, 1, 0, 0], adds: 0, retires: 1, ..joining };
    for (pool, left_out) in [
        (joining, &[Rule::Causality]),
        (joining, &[Rule::OpsBeforeAnnouncement]),
        (joining, &[Rule::NewcomerCounts]),
        (joining, &[Rule::FrontierStays]),
        (joining, &[Rule::FencedFromMembers]),
        (leaving, &[Rule::FencedFromRemaining]),
        (writing, &[Rule::EveryFence]),
        (Pool { evicts: 2, ..joining }, &[Rule::Majority]),
        (Pool { members: 3, evicts: 3, adds: 0, force: false, ..joining }, &[Rule::MajorityOfEach]),
        (joining, &[Rule::Rooted]),
        (writing, &[Rule::OrphanStops]),
    ] {
        let found = contradiction(Pool { left_out, ..pool });
        println!("without {left_out:?}: {found:?}");
        assert!(found.is_some(), "{left_out:?}");
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
    /// It takes them only from those that remain. One that has retired fences nothing, and would pass on what the
    /// evicted member issued after all fences.
    FencedFromRemaining,
    /// Every remaining member has fenced.
    EveryFence,
    /// A member that took more of the evicted one since its fence fences again.
    FenceAgain,
    /// The evicted member's ops are held up to the largest `k`.
    LargestK,
    /// The remaining members are a majority.
    Majority,
    /// The voices of that majority are members whose `Add` is final.
    MajorityOfFinal,
    /// They are a majority of all whose `Add` can be final at another member by now. Else one that lags, and takes
    /// itself alone for the pool, can evict all others while they evict it.
    MajorityOfEach,
    /// A member is taken to remain only if it is rooted.
    Rooted,
    /// A node that is not rooted does not move its frontier.
    OrphanStops,
    /// Repair 1: an eviction that was effective stays effective. That is stored, like the frontier.
    EffectiveStays,
    /// Repair 2: at each time from the frontier to what it may have promised, those who remain are a majority of the members
    /// added until then. Without it only those whose `Add` is final speak, against all added until that promise.
    VoicesOfEach,
    /// Repair 3: an op at or below its origin's announcement, or below the frontier, proves an old copy of a disk. It is
    /// refused, and the node comes back as another.
    OldCopyRefused,
}

/// The bounds of an exploration.
#[derive(Clone, Copy, Debug, Default)]
struct Pool<const N: usize> {
    /// How many members there are at the start: two, or C, added by B, and so on.
    members: usize,
    /// How many ordinary ops each node may issue.
    writes: [u8; MOST],
    /// How many ops of each other kind there may be.
    adds: usize,
    retires: usize,
    evicts: usize,
    /// An eviction may be forced.
    force: bool,
    /// The `Add` ops of these are not final yet.
    fresh: bool,
    /// C is down from the start, for ever.
    dead: bool,
    /// How many members may die, for ever.
    deaths: u8,
    /// How often nodes may start again, each with all that it had stored.
    restarts: u8,
    /// How often a node may start again with an old copy of its disk.
    copies: u8,
    /// All that a peer has may also come at once, so that what follows is worked out from all of it.
    batches: bool,
    /// Evictions may cross, and a majority is to go on all the same.
    crossed: bool,
    left_out: &'static [Rule],
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
struct Op<const N: usize> {
    time: u8,
    /// How many ops of each node its origin held when it issued it.
    seen: [u8; N],
    command: Command,
}

/// What a member says of itself; its head is looked up when it is heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Announcement {
    clock: u8,
    complete: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Node<const N: usize> {
    joined: bool,
    down: bool,
    /// How many ops of each node it holds.
    held: [u8; N],
    clock: u8,
    frontier: u8,
    /// What it may have promised to be complete up to.
    promised: u8,
    /// The last announcement of each other member that counted here. No disk has it.
    counted: [Announcement; N],
    /// Whose eviction is effective here.
    effective: [bool; N],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World<const N: usize> {
    ops: [Vec<Op<N>>; N],
    nodes: [Node<N>; N],
    restarts: u8,
    deaths: u8,
    copies: u8,
    /// An old copy of a node's disk.
    copy: Option<(usize, Node<N>)>,
    /// An op at or below its taker's frontier.
    took_late: bool,
    went_back: bool,
}

impl<const N: usize> Node<N> {
    fn new(joined: bool, held: [u8; N], clock: u8) -> Node<N> {
        let (counted, effective) = ([Announcement::default(); N], [false; N]);
        Node { joined, down: false, held, clock, frontier: 0, promised: 0, counted, effective }
    }

    fn is_up(&self) -> bool {
        self.joined && !self.down
    }

    /// Comes back with what is on its disk.
    fn start(&mut self) {
        self.counted = [Announcement::default(); N];
        self.clock += LEAP;
        // What it promised is on no disk; more than its clock it cannot have been.
        self.promised = self.clock;
    }
}

impl<const N: usize> World<N> {
    /// The ops of `origin` that `at` holds, the first one first.
    fn held(&self, at: usize, origin: usize) -> &[Op<N>] {
        &self.ops[origin][..self.nodes[at].held[origin] as usize]
    }

    /// How many ops of `origin` up to `time` are held at `at`.
    fn held_until(&self, at: usize, origin: usize, time: u8) -> usize {
        self.held(at, origin).iter().filter(|op| op.time <= time).count()
    }

    fn has_final_evict(&self, at: usize) -> bool {
        let is_evict = |op: &Op<N>| matches!(op.command, Command::Evict { .. }) && op.time <= self.nodes[at].frontier;
        (0..N).any(|origin| self.held(at, origin).iter().any(is_evict))
    }

    fn issued(&self, is_wanted: impl Fn(&Command) -> bool) -> usize {
        self.ops.iter().flatten().filter(|op| is_wanted(&op.command)).count()
    }

    /// Whether a node holds all that it ever issued. With an old copy of its disk it may not, and then takes that back
    /// before it issues anything.
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

    fn issue(&mut self, by: usize, command: Command) {
        let node = &mut self.nodes[by];
        node.clock += 1;
        self.ops[by].push(Op { time: node.clock, seen: node.held, command });
        node.held[by] += 1;
    }

    /// The next op of `origin` comes to `to`.
    fn take(&mut self, to: usize, origin: usize) {
        let node = &mut self.nodes[to];
        let op = self.ops[origin][node.held[origin] as usize];
        node.held[origin] += 1;
        node.clock = node.clock.max(op.time);
        self.took_late |= op.time <= node.frontier;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Issue {
        by: usize,
        command: Command,
    },
    Join {
        newcomer: usize,
        through: usize,
    },
    Take {
        to: usize,
        from: usize,
        origin: usize,
    },
    TakeAll {
        to: usize,
        from: usize,
    },
    Hear {
        to: usize,
        from: usize,
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
    /// It comes back with the old copy.
    GoBack {
        at: usize,
    },
    /// It finds that `origin` has come back with an old copy.
    Refuse {
        to: usize,
        origin: usize,
    },
}

impl<const N: usize> Model for Pool<N> {
    type State = World<N>;
    type Action = Step;

    fn init_states(&self) -> Vec<World<N>> {
        let none = Node::new(false, [0; N], 0);
        let mut world = World {
            ops: array::from_fn(|_| vec![]),
            nodes: [none; N],
            restarts: 0,
            deaths: 0,
            copies: 0,
            copy: None,
            took_late: false,
            went_back: false,
        };
        // The founder adds B, B adds C, C adds D.
        let mut held = [0; N];
        for member in 1..self.members {
            let command = Command::Add { member };
            world.ops[member - 1].push(Op { time: u8::try_from(member).expect("few"), seen: held, command });
            held[member - 1] = 1;
        }
        let clock = u8::try_from(self.members - 1).expect("few");
        world.nodes[..self.members].fill(Node::new(true, held, clock));
        if !self.fresh {
            let node = &mut world.nodes[..self.members];
            node.iter_mut().for_each(|node| (node.frontier, node.promised) = (clock, clock));
        }
        world.nodes[C].down = self.dead;
        vec![world]
    }

    fn actions(&self, world: &World<N>, steps: &mut Vec<Step>) {
        let views: [View<'_, N>; N] = array::from_fn(|at| self.view(world, at));
        self.deliveries(world, &views, steps);
        for at in (0..N).filter(|&at| world.nodes[at].is_up()) {
            let view = &views[at];
            if world.restarts < self.restarts {
                steps.push(Step::Restart { at });
            }
            if world.deaths < self.deaths {
                steps.push(Step::Die { at });
            }
            match world.copy {
                None if world.copies < self.copies => steps.push(Step::Copy { at }),
                Some((of, copy)) if of == at && world.can_go_back(at, &copy) => steps.push(Step::GoBack { at }),
                _ => {}
            }
            steps.extend(
                (0..N).filter(|&origin| view.refuses(world, origin)).map(|origin| Step::Refuse { to: at, origin }),
            );
            if !view.is_member() {
                continue;
            }
            steps.extend(self.commands(world, view).map(|command| Step::Issue { by: at, command }));
            let joins = |newcomer: &usize| {
                !world.nodes[*newcomer].joined && view.added[*newcomer].is_some() && !view.evicted[*newcomer]
            };
            steps.extend((0..N).filter(joins).map(|newcomer| Step::Join { newcomer, through: at }));
        }
    }

    fn next_state(&self, world: &World<N>, step: Step) -> Option<World<N>> {
        let mut world = world.clone();
        let at = match step {
            Step::Issue { by, command } => {
                world.issue(by, command);
                by
            }
            // The sponsor may fail between its `Add` and the snapshot: any member that knows of the `Add` can give it.
            Step::Join { newcomer, through } => {
                let Node { held, clock, frontier, effective, .. } = world.nodes[through];
                world.nodes[newcomer] = Node { frontier, effective, ..Node::new(true, held, clock) };
                newcomer
            }
            Step::Take { to, origin, .. } => {
                world.take(to, origin);
                to
            }
            Step::TakeAll { to, from } => {
                while let Some(origin) = {
                    let view = self.view(&world, to);
                    (0..N).find(|&origin| view.takes(&world, from, origin))
                } {
                    world.take(to, origin);
                }
                to
            }
            Step::Hear { to, from } => {
                let said = self.view(&world, from).announcement();
                let Node { held, frontier, .. } = world.nodes[from];
                let node = &mut world.nodes[to];
                // With equal logs, what is final for one is final for the other.
                if node.held == held {
                    node.frontier = node.frontier.max(frontier);
                }
                let heard = &mut node.counted[from];
                *heard =
                    Announcement { clock: said.clock.max(heard.clock), complete: said.complete.max(heard.complete) };
                node.clock = node.clock.max(said.clock);
                to
            }
            Step::Die { at } => {
                world.nodes[at].down = true;
                world.deaths += 1;
                return Some(world);
            }
            Step::Restart { at } => {
                world.restarts += 1;
                world.nodes[at].start();
                at
            }
            Step::Copy { at } => {
                world.copies += 1;
                world.copy = Some((at, Node { counted: [Announcement::default(); N], ..world.nodes[at] }));
                return Some(world);
            }
            Step::GoBack { at } => {
                world.nodes[at] = world.copy.take()?.1;
                world.nodes[at].start();
                at
            }
            Step::Refuse { origin, .. } => {
                world.nodes[origin].down = true;
                return Some(world);
            }
        };
        self.settle(&mut world, at);
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(AGREE, |pool: &Self, world: &World<N>| {
                let stands = |at: &usize| {
                    let view = pool.view(world, *at);
                    view.node.joined && view.rooted[*at] && !view.evicted[*at]
                };
                let frontier = |at: usize| world.nodes[at].frontier;
                let same = |x: usize, y: usize| {
                    (0..N).all(|of| world.held_until(x, of, frontier(x)) == world.held_until(y, of, frontier(x)))
                };
                let standing: Vec<usize> = (0..N).filter(stands).collect();
                standing.iter().all(|&x| standing.iter().all(|&y| frontier(y) < frontier(x) || same(x, y)))
            }),
            Property::always(NONE_LATE, |_, world: &World<N>| !world.took_late),
            Property::always(NONE_BACK, |_, world: &World<N>| !world.went_back),
            Property::always(LIVE, |pool: &Self, world: &World<N>| pool.goes_on(world, false)),
            Property::always(CROSSED, |pool: &Self, world: &World<N>| !pool.crossed || pool.goes_on(world, true)),
            Property::sometimes(EVICTED, |_, world: &World<N>| {
                world.nodes.iter().any(|node| node.effective.contains(&true))
            }),
            Property::sometimes(GOES_ON, |_, world: &World<N>| (0..N).any(|at| world.has_final_evict(at))),
            Property::sometimes(FOUNDER, |_, world: &World<N>| {
                (1..N).any(|at| world.nodes[at].effective[A] && world.has_final_evict(at))
            }),
            Property::sometimes(JOINED, |_, world: &World<N>| {
                [A, B].iter().any(|&at| world.held_until(at, N - 1, world.nodes[at].frontier) > 0)
            }),
        ]
    }
}

impl<const N: usize> Pool<N> {
    fn asks(&self, rule: Rule) -> bool {
        !self.left_out.contains(&rule)
    }

    /// What can come from one node to another.
    fn deliveries(&self, world: &World<N>, views: &[View<'_, N>; N], steps: &mut Vec<Step>) {
        for to in (0..N).filter(|&to| world.nodes[to].is_up()) {
            let view = &views[to];
            for origin in 0..N {
                // From whom makes no difference, only whether there is one.
                let from = (0..N).find(|&from| view.takes(world, from, origin));
                steps.extend(from.map(|from| Step::Take { to, from, origin }));
            }
            let has = |from: &usize| (0..N).any(|origin| view.takes(world, *from, origin));
            steps.extend((0..N).filter(|_| self.batches).filter(has).map(|from| Step::TakeAll { to, from }));
            // Who is no member any more in its own eyes has no use for what others say.
            let hears = |at: usize| views[at].is_member() && world.is_whole(at);
            for from in (0..N).filter(|&from| from != to && hears(to) && hears(from)) {
                let counts = world.nodes[to].held[from] >= views[from].node.held[from]
                    || !self.asks(Rule::OpsBeforeAnnouncement);
                let (said, heard) = (views[from].announcement(), world.nodes[to].counted[from]);
                let hands_on =
                    views[from].node.held == view.node.held && views[from].node.frontier > view.node.frontier;
                if counts && (said.clock > heard.clock || said.complete > heard.complete) || hands_on {
                    steps.push(Step::Hear { to, from });
                }
            }
        }
    }

    /// What a member may issue of its own accord.
    fn commands(&self, world: &World<N>, view: &View<'_, N>) -> impl Iterator<Item = Command> {
        let mut commands = vec![];
        if !world.is_whole(view.at) {
            return commands.into_iter();
        }
        if world.ops[view.at].iter().filter(|op| op.command == Command::Write).count() < self.writes[view.at] as usize {
            commands.push(Command::Write);
        }
        if world.issued(|command| *command == Command::Retire) < self.retires {
            commands.push(Command::Retire);
        }
        let newcomers = self.members..(self.members + self.adds).min(N);
        // Each of two may add the same one, the other not having heard of it.
        let is_open = |member: &usize| view.added[*member].is_none();
        if world.issued(|command| matches!(command, Command::Add { .. })) < self.members - 1 + self.adds {
            commands.extend(newcomers.filter(is_open).map(|member| Command::Add { member }));
        }
        if world.issued(|command| matches!(command, Command::Evict { .. })) < self.evicts {
            for member in (0..N).filter(|&member| member != view.at && view.stays(member)) {
                commands.extend(view.leaves_majority(member).then_some(Command::Evict { member, force: false }));
                commands.extend(self.force.then_some(Command::Evict { member, force: true }));
            }
        }
        commands.into_iter()
    }

    /// What a node does at once after anything has happened to it.
    fn settle(&self, world: &mut World<N>, at: usize) {
        // A node that has yet to take its own ops back judges nothing.
        if !world.is_whole(at) {
            return;
        }
        let mut view = self.view(world, at);
        while let Some(fence) = view.owed_fence() {
            world.issue(at, fence);
            view = self.view(world, at);
        }
        for member in (0..N).cycle().take(N * N) {
            let was = view.node.effective[member] && self.asks(Rule::EffectiveStays);
            view.node.effective[member] = was || view.is_effective(member);
        }
        let frontier = view.frontier();
        world.went_back |= frontier < view.node.frontier;
        view.node.frontier = frontier;
        view.node.promised = view.node.promised.max(view.announcement().complete);
        view.forget();
        world.nodes[at] = view.node;
    }

    fn view(&self, world: &World<N>, at: usize) -> View<'_, N> {
        let mut view = View {
            pool: self,
            at,
            node: world.nodes[at],
            added: [None; N],
            adds: vec![],
            retired: [false; N],
            evicted: [false; N],
            evicted_at: [u8::MAX; N],
            forced: [false; N],
            fences: [[None; N]; N],
            rooted: [!self.asks(Rule::Rooted); N],
        };
        view.added[A] = Some(0);
        for by in 0..N {
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
                        view.evicted_at[member] = view.evicted_at[member].min(op.time);
                        view.forced[member] |= force;
                    }
                    Command::Fence { member, k } => {
                        let (first, _) = view.fences[member][by].unwrap_or((seq, k));
                        view.fences[member][by] = Some((first, k));
                    }
                }
            }
        }
        view.root();
        view
    }

    /// Whether all is final everywhere, where all is delivered and the living can be expected to go on: as far as they
    /// know every dead member is evicted, and at each time from the frontier on the living are a majority of the members
    /// added until then. Who is evicted counts as living only with `crossed`.
    fn goes_on(&self, world: &World<N>, crossed: bool) -> bool {
        let views: [View<'_, N>; N] = array::from_fn(|at| self.view(world, at));
        let up: Vec<&View<'_, N>> = views.iter().filter(|view| view.node.is_up() && !view.retired[view.at]).collect();
        let waits_for = |member: usize| !world.nodes[member].is_up() && up.iter().any(|view| view.stays(member));
        if (0..N).any(waits_for) {
            return true;
        }
        let Some(most) = up.iter().filter(|view| view.rooted[view.at]).max_by_key(|view| view.node.frontier) else {
            return true;
        };
        let settled = |member: usize| most.evicted_at[member] <= most.node.frontier;
        let stays = |member: &usize| !up.iter().all(|view| view.retired[*member]) && !settled(*member);
        let lives = |member: &usize| {
            let evicted = up.iter().any(|view| view.evicted[*member]);
            up.iter().any(|view| view.at == *member) && (crossed || !evicted)
        };
        let is_majority = |until: u8| {
            let is_added = |member: &usize| up.iter().any(|view| view.added[*member].is_some_and(|time| time <= until));
            let all = || (0..N).filter(is_added).filter(stays);
            2 * all().filter(lives).count() > all().count()
        };
        let latest = up.iter().map(|view| view.node.clock).max().unwrap_or(0);
        if !(most.node.frontier..=latest.max(most.node.frontier)).all(is_majority) {
            return true;
        }
        let is_speaking = |view: &&&View<'_, N>| view.is_member() && view.rooted[view.at];
        let mut speaking = up.iter().filter(is_speaking).peekable();
        let all_final = speaking.peek().is_some() && speaking.all(|view| view.node.frontier == view.node.clock);
        if all_final {
            return true;
        }
        let mut steps = vec![];
        self.deliveries(world, &views, &mut steps);
        let refuses = |view: &View<'_, N>| view.node.is_up() && (0..N).any(|origin| view.refuses(world, origin));
        !steps.is_empty() || views.iter().any(refuses)
    }
}

/// What a node makes of the ops that it holds.
struct View<'a, const N: usize> {
    pool: &'a Pool<N>,
    at: usize,
    node: Node<N>,
    /// The time of each member's first `Add`: it issues nothing up to there.
    added: [Option<u8>; N],
    /// The member, its sponsor and the sponsor's seq of each `Add`.
    adds: Vec<(usize, usize, u8)>,
    retired: [bool; N],
    evicted: [bool; N],
    /// The time of the first op that evicts it.
    evicted_at: [u8; N],
    forced: [bool; N],
    /// The seq of the second one's first fence of the first, and how many ops it held at the last.
    fences: [[Option<(u8, u8)>; N]; N],
    rooted: [bool; N],
}

impl<const N: usize> View<'_, N> {
    fn stays(&self, member: usize) -> bool {
        self.added[member].is_some() && !self.retired[member] && !self.evicted[member]
    }

    /// A node that is not a member any more, as far as it knows, says and issues nothing.
    fn is_member(&self) -> bool {
        self.node.is_up() && self.stays(self.at)
    }

    fn remains(&self, member: usize) -> bool {
        self.stays(member) && self.rooted[member]
    }

    /// Finds who is rooted, from the founder and from those whose `Add` is final on: no member can be the ground for its
    /// own root.
    fn root(&mut self) {
        self.rooted[A] = true;
        for member in 0..N {
            self.rooted[member] |= self.added[member].is_some_and(|time| time <= self.node.frontier);
        }
        for _ in 0..N {
            for &(member, sponsor, seq) in &self.adds {
                let kept = |by: usize| {
                    let held = self.fences[sponsor][by].is_some_and(|(_, k)| k >= seq);
                    held && self.remains(by)
                };
                // Before the first fence nobody has cut anything off.
                let uncut = !self.evicted[sponsor] || self.fences[sponsor].iter().all(Option::is_none);
                self.rooted[member] |= self.rooted[sponsor] && (uncut || (0..N).any(kept));
            }
        }
    }

    fn next_op<'a>(&self, world: &'a World<N>, origin: usize) -> Option<&'a Op<N>> {
        world.ops[origin].get(self.node.held[origin] as usize)
    }

    /// Whether the next op of `origin` can come here from `from`.
    fn takes(&self, world: &World<N>, from: usize, origin: usize) -> bool {
        let has =
            from != self.at && world.nodes[from].is_up() && world.nodes[from].held[origin] > self.node.held[origin];
        let caused = |op: &Op<N>| op.seen.iter().zip(&self.node.held).all(|(seen, held)| seen <= held);
        let Some(op) = self.next_op(world, origin).filter(|_| has) else { return false };
        let fenced = self.evicted[origin] && self.pool.asks(Rule::FencedFromMembers);
        let may_relay = self.remains(from)
            || (self.added[from].is_some() && !self.evicted[from] && !self.pool.asks(Rule::FencedFromRemaining))
            || self.cannot_tell(origin);
        (caused(op) || !self.pool.asks(Rule::Causality)) && (!fenced || may_relay) && !self.disproves(op, origin)
    }

    /// In whose eyes nobody remains, may take an evicted member's ops from anyone while its answer is awaited.
    fn cannot_tell(&self, origin: usize) -> bool {
        let answered = self.fences[origin][self.at].is_some() || self.came_after(self.at, origin);
        !answered && !(0..N).any(|member| self.remains(member))
    }

    /// Whether an op proves that its origin has come back with an old copy of its disk.
    fn disproves(&self, op: &Op<N>, origin: usize) -> bool {
        let told = self.node.counted[origin].clock.max(self.node.frontier);
        op.time <= told && origin != self.at && self.pool.copies > 0 && self.pool.asks(Rule::OldCopyRefused)
    }

    /// Whether the node that such an op comes from is found out here.
    fn refuses(&self, world: &World<N>, origin: usize) -> bool {
        let is_there = world.nodes[origin].is_up() && self.stays(origin);
        is_there && self.next_op(world, origin).is_some_and(|op| self.disproves(op, origin))
    }

    fn owed_fence(&self) -> Option<Command> {
        let owed = |member: &usize| {
            let held = self.node.held[*member];
            let open = self.evicted[*member] && self.evicted_at[*member] > self.node.frontier;
            open && match self.fences[*member][self.at] {
                None => true,
                Some(_) => self.most_held(*member) < held && self.pool.asks(Rule::FenceAgain),
            }
        };
        let member = (0..N).filter(|_| self.node.is_up() && self.remains(self.at)).find(owed)?;
        Some(Command::Fence { member, k: self.node.held[member] })
    }

    /// How many ops of an evicted member somebody held when he cut it off.
    fn most_held(&self, member: usize) -> u8 {
        self.fences[member].iter().flatten().map(|(_, k)| *k).max().unwrap_or(0)
    }

    /// Whether `by` began with what its sponsor held behind its fence: it need not answer itself.
    fn came_after(&self, by: usize, evicted: usize) -> bool {
        let behind = |sponsor: usize, seq: u8| self.fences[evicted][sponsor].is_some_and(|(first, _)| first < seq);
        let mut adds = self.adds.iter().filter(|(member, ..)| *member == by).peekable();
        adds.peek().is_some() && adds.all(|&(_, sponsor, seq)| behind(sponsor, seq))
    }

    fn is_settled(&self, member: usize) -> bool {
        self.evicted_at[member] <= self.node.frontier
    }

    /// Whether those who speak are a majority.
    fn is_majority(&self, speaks: impl Fn(usize) -> bool) -> bool {
        let asks = |rule| self.pool.asks(rule);
        let to =
            if asks(Rule::MajorityOfEach) { self.node.promised.max(self.node.frontier) } else { self.node.frontier };
        let (from, to) = if asks(Rule::MajorityOfFinal) { (self.node.frontier, to) } else { (u8::MAX, u8::MAX) };
        let base = |until: u8| {
            let is_added = move |member: &usize| self.added[*member].is_some_and(|time| time <= until);
            (0..N).filter(is_added).filter(|&member| !self.retired[member] && !self.is_settled(member))
        };
        let voices = |until: u8| base(until).filter(|&member| speaks(member)).count();
        if asks(Rule::VoicesOfEach) {
            return (from..=to).all(|until| 2 * voices(until) > base(until).count());
        }
        2 * voices(from) > base(to).count()
    }

    fn is_effective(&self, member: usize) -> bool {
        if !self.evicted[member] || self.is_settled(member) {
            return self.evicted[member];
        }
        let asks = |rule| self.pool.asks(rule);
        let fenced = |by: usize| self.fences[member][by].is_some() || self.came_after(by, member);
        let mut remaining = (0..N).filter(|&by| self.remains(by)).peekable();
        let any = remaining.peek().is_some();
        any && (remaining.all(fenced) || !asks(Rule::EveryFence))
            && (self.forced[member] || !asks(Rule::Majority) || self.is_majority(|by| self.remains(by)))
            && (self.most_held(member) <= self.node.held[member] || !asks(Rule::LargestK))
    }

    /// Whether those who would remain without `member` too are a majority: else an operator's eviction is refused.
    fn leaves_majority(&self, member: usize) -> bool {
        self.is_majority(|other| other != member && self.stays(other)) || !self.pool.asks(Rule::Majority)
    }

    fn is_pending(&self, member: usize) -> bool {
        self.evicted[member] && !self.retired[member] && !self.node.effective[member]
    }

    /// The members that count for finality.
    fn counted(&self) -> impl Iterator<Item = usize> {
        let pending = (0..N).any(|member| self.is_pending(member));
        (0..N).filter(move |&member| {
            let final_only = !self.pool.asks(Rule::NewcomerCounts);
            self.added[member].is_some_and(|time| time <= self.node.frontier || !final_only)
                && !self.retired[member]
                && if self.evicted[member] { self.is_pending(member) } else { self.rooted[member] || pending }
        })
    }

    fn announcement(&self) -> Announcement {
        let clock = |member: usize| {
            let added = self.added[member].unwrap_or(0);
            if member == self.at { self.node.clock } else { self.node.counted[member].clock.max(added) }
        };
        let complete = self.counted().map(clock).min().unwrap_or(0).max(self.node.frontier);
        Announcement { clock: self.node.clock, complete }
    }

    fn frontier(&self) -> u8 {
        let pending = (0..N).any(|member| self.is_pending(member));
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
            if self.retired[member] || self.node.effective[member] && self.pool.asks(Rule::EffectiveStays) {
                *announcement = Announcement::default();
            } else if self.pool.asks(Rule::FrontierStays) {
                announcement.complete = announcement.complete.max(self.node.frontier);
            }
        }
        if !self.is_member() {
            (self.node.clock, self.node.promised) = (0, 0);
            self.node.counted = [Announcement::default(); N];
        }
    }
}

/// Explores all histories of a pool: nothing contradicts the rules, and what can happen is what is `expected`.
#[track_caller]
fn check<const N: usize>(pool: Pool<N>, expected: &[&str]) {
    let started = Instant::now();
    let checker = pool.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!("{} states in {:.1?}: {pool:?}", checker.unique_state_count(), started.elapsed());
    let mut found = checker.discoveries();
    for property in expected {
        assert!(found.remove(property).is_some(), "never: {property}");
    }
    found.retain(|property, _| FAILURES.contains(property));
    let found: Vec<_> = found.into_iter().map(|(property, history)| (property, history.into_actions())).collect();
    assert!(found.is_empty(), "{found:#?}");
}

const FAILURES: [&str; 5] = [AGREE, NONE_LATE, NONE_BACK, LIVE, CROSSED];

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
