//! What a seed stands for: how many nodes, which faults, what clients do.

use std::collections::BTreeSet;

use super::chance;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Some messages take far longer than others.
    Delay,
    /// A message overtakes another on its link.
    Reorder,
    /// A message arrives twice.
    Duplicate,
    /// A message is lost, though its link lives on.
    Loss,
    /// A message arrives cut short.
    Garble,
    /// The pool falls into two halves.
    Halves,
    /// One machine is cut off.
    Isolate,
    /// One machine is heard but hears nothing, or the other way round.
    OneWay,
    /// A link holds everything back for long, and then lets it go.
    Hold,
    /// A link breaks; sometimes only one side learns of it.
    Reset,
    /// A node vanishes.
    Crash,
    /// A new node comes up where one vanished.
    Restart,
    /// An operator cuts a node's links.
    Cut,
    /// A link takes batches slowly.
    Slow,
    /// Wall clocks differ by years.
    Skew,
    /// The early buffers are full.
    EarlyFull,
    /// A node joins late.
    Newcomer,
    /// A node that vanished comes back from its journal.
    Comeback,
    /// All nodes lose their power at once.
    Blackout,
    /// A disk runs full for a while.
    DiskFull,
    /// A disk fails to store, and the node stops.
    DiskError,
    /// A node comes back from a journal of which a part is lost.
    Damage,
    /// A node comes back from an old copy of its journal.
    OldDisk,
    /// An operator evicts a member, dead or alive.
    Evict,
    /// A node comes back from a journal whose beginning a snapshot has replaced.
    Shortened,
    /// A node retires, is gone soon after, and comes back.
    Leave,
    /// A node is away, dead or cut off, for so long that the others evict it of themselves, and comes back.
    Absence,
    /// A copy of a live node's journal is started on another machine.
    Copy,
    /// A node comes back at another address.
    Move,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 29] = [
        Fault::Delay,
        Fault::Reorder,
        Fault::Duplicate,
        Fault::Loss,
        Fault::Garble,
        Fault::Halves,
        Fault::Isolate,
        Fault::OneWay,
        Fault::Hold,
        Fault::Reset,
        Fault::Crash,
        Fault::Restart,
        Fault::Cut,
        Fault::Slow,
        Fault::Skew,
        Fault::EarlyFull,
        Fault::Newcomer,
        Fault::Comeback,
        Fault::Blackout,
        Fault::DiskFull,
        Fault::DiskError,
        Fault::Damage,
        Fault::OldDisk,
        Fault::Evict,
        Fault::Shortened,
        Fault::Leave,
        Fault::Absence,
        Fault::Copy,
        Fault::Move,
    ];
}

/// How one run goes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed it was drawn from.
    pub seed: u64,
    /// Machines with a node from the start.
    pub machines: usize,
    /// Machines whose node joins late.
    pub newcomers: usize,
    /// Whether every node may found the pool and looks for the others, or the first one founds it.
    pub all_found: bool,
    /// How long there are writes and faults.
    pub storm_ms: u64,
    /// The faults of this run.
    pub faults: BTreeSet<Fault>,
    /// Per mille of messages that are lost, reordered, doubled or delayed, where these faults are on.
    pub rate: u32,
    /// Between two faults of one kind, on average.
    pub strike_ms: u64,
    /// Least and most latency.
    pub latency_ms: (u64, u64),
    /// Between two writes, on average; a tenth of them come in bursts.
    pub write_ms: u64,
    /// Most ops of clients.
    pub writes_max: u64,
    /// What clients do.
    pub mix: Mix,
    /// How many ops the early buffers take, if few.
    pub early_max: Option<usize>,
    /// Steps between two comparisons with the naive model.
    pub audit_every: u64,
    /// Whether crashed nodes come back by the end.
    pub all_return: bool,
    /// Whether nodes keep journals.
    pub durable: bool,
    /// Whether disks may be lost with their nodes.
    pub disks_die: bool,
    /// How long a disk takes to store, least and most.
    pub disk_ms: (u64, u64),
    /// How many ops stay in the logs of nodes: one of these for each node.
    pub retain: Vec<usize>,
    /// Per mille of ticks with which a journal is found too long.
    pub compact: u32,
    /// How long idempotency keys are remembered, and how many documents a slice of a snapshot has.
    pub squeeze: (u64, usize),
    /// The most Lamport times that a node reserves at once.
    pub step_max: u64,
    /// Between two changes of what clients show of themselves, on average; zero if they show nothing.
    pub present_ms: u64,
    /// Per mille of ticks with which a node's memory is found to be short, or no longer.
    pub tight: u32,
    /// Per mille of batches that leave slowly, where links are slow.
    pub slow: u32,
    /// After which silence members evict each other.
    pub evict_after_ms: Option<u64>,
    /// Whether a node that comes back from an old copy of its journal is cut off at first, takes writes, and vanishes once more.
    pub lonely: bool,
    /// How all nodes look for each other by one name, if they do.
    pub name: Option<Name>,
    /// How faults come.
    pub course: Course,
}

/// How faults come: at random, or as a story that random faults tell too seldom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// Each fault at its own times.
    Storm,
    /// Nodes vanish while everyone writes, and are evicted at once; else hardly anybody writes.
    Burials,
    /// A minority is cut off while everyone writes, and is evicted; some of it may vanish for good before it is heard again.
    Partings,
    /// Nodes come back from old copies of their disks, and clients write there before others are heard.
    OldDisks,
    /// A copy of a node's journal is started beside it.
    Copies,
    /// A node's journal is copied, and a newcomer meets the copy before it meets the node.
    CopyFirst,
    /// A node writes for some, goes back to an old copy of its disk, and writes for another before all hear each other.
    TwoHistories,
    /// All nodes but the first come back at other addresses, one after the other, and then the first is gone.
    Moves,
    /// A member is being evicted when all others are gone for good.
    LastMember,
    /// Operators at parts of the pool that do not hear each other evict members of the other parts, in circles too.
    Crossings,
}

/// The one name that stands in every node's join list, with the addresses of all of them.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    /// What a look-up finds at first.
    pub at_first: AtFirst,
    /// How long that lasts, on each machine up to half as long again.
    pub late_ms: u64,
    /// How many nodes must have met before one founds a pool.
    pub found_with: usize,
    /// Whether a client writes on one machine while the nodes look for each other.
    pub early_write: bool,
}

/// What a look-up finds of a name before all its addresses are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtFirst {
    /// Nothing: it fails.
    Nothing,
    /// The address of the machine itself, as its hosts file has it.
    Oneself,
    /// The addresses of the machine itself and of one other: nodes meet in pairs.
    Pairs,
}

impl Name {
    fn draw(seed: u64, machines: usize) -> Name {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x6e61_6d65);
        let at_first = *rng.choice(&[AtFirst::Nothing, AtFirst::Oneself, AtFirst::Pairs]).unwrap_or(&AtFirst::Nothing);
        Name {
            at_first,
            late_ms: *rng.choice(&[0, 1_000, 5_000, 5_000]).unwrap_or(&5_000),
            found_with: if rng.u32(..4) == 0 { rng.usize(1..=machines) } else { 1 },
            early_write: rng.u32(..3) == 0,
        }
    }
}

/// What clients do: documents to choose from, and weights.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Collections.
    pub collections: usize,
    /// Documents a collection.
    pub documents: usize,
    /// Weight of puts.
    pub put: u32,
    /// Weight of merges.
    pub merge: u32,
    /// Weight of patches.
    pub patch: u32,
    /// Weight of deletes.
    pub delete: u32,
    /// Weight of edits of texts.
    pub text: u32,
    /// Weight of ops over several documents.
    pub tx: u32,
    /// Per mille of ops with an idempotency key.
    pub keyed: u32,
    /// Per mille of single-document ops with a guard.
    pub guarded: u32,
}

impl Plan {
    /// The run of a seed.
    pub fn draw(seed: u64) -> Plan {
        let plan = Plan::storm(seed);
        match seed % 16 {
            12 if seed % 64 == 12 => plan.of_moves(),
            4 if seed % 128 == 20 => plan.of_copies(),
            4 if matches!(seed % 128, 52 | 84 | 116) => plan.of_copies().with_newcomer_at_copy(),
            1 if seed % 64 == 33 => plan.of_old_disks().with_small_steps(),
            8 => plan.of_crossings(),
            2 | 10 => plan.of_partings(),
            1 if seed % 128 == 65 => plan.of_last_member(),
            3 if seed % 64 == 35 => plan.of_two_histories(),
            3 if seed % 64 == 51 => plan.of_old_disks().with_lonely_copies(),
            3 => plan.of_old_disks(),
            5 | 13 => plan.of_burials(),
            11 => plan.of_one_name(),
            _ => plan.of_old_copies().with_departures(),
        }
    }

    /// A pool of five of which two are cut off and evicted while they hold what nobody else does; one of these may be gone for
    /// good, and the other comes back as another.
    fn of_partings(self) -> Plan {
        let mut rng = fastrand::Rng::with_seed(self.seed ^ 0x7061_7274);
        Plan {
            machines: 5,
            newcomers: 0,
            all_found: false,
            storm_ms: rng.u64(40_000..80_000),
            faults: [Fault::Crash, Fault::Restart, Fault::Halves, Fault::Evict].into(),
            latency_ms: *rng.choice(&[(1, 10), (10, 50), (5, 200)]).unwrap_or(&(10, 50)),
            write_ms: 3_000,
            writes_max: 200,
            early_max: None,
            durable: false,
            disks_die: false,
            present_ms: 0,
            course: Course::Partings,
            ..self
        }
    }

    /// The same with one node and a newcomer. The copy and the newcomer are cut off from the node at first.
    fn with_newcomer_at_copy(self) -> Plan {
        let mut rng = fastrand::Rng::with_seed(self.seed ^ 0x6669_7273_7400);
        let loss = Some(Fault::Loss).filter(|_| rng.bool());
        Plan {
            machines: 1,
            newcomers: 1,
            storm_ms: 30_000,
            // It takes a while until the newcomer has got what makes it a member.
            faults: [Fault::Copy].into_iter().chain(loss).collect(),
            rate: 400,
            latency_ms: (20, 200),
            disk_ms: (20, 200),
            strike_ms: 1_500,
            write_ms: 1_000,
            present_ms: 0,
            course: Course::CopyFirst,
            ..self
        }
    }

    /// A pool that falls apart while everyone writes, each part of which evicts members of the others. Nodes may be started anew
    /// meanwhile.
    fn of_crossings(self) -> Plan {
        let mut rng = fastrand::Rng::with_seed(self.seed ^ 0x6372_6f73_7300);
        Plan {
            machines: rng.usize(2..=5),
            newcomers: 0,
            all_found: false,
            storm_ms: rng.u64(25_000..60_000),
            faults: [Fault::Crash, Fault::Restart, Fault::Comeback, Fault::Halves, Fault::Evict].into(),
            latency_ms: *rng.choice(&[(1, 10), (10, 50), (5, 200)]).unwrap_or(&(10, 50)),
            write_ms: rng.u64(300..2_000),
            writes_max: 200,
            early_max: None,
            durable: true,
            disks_die: false,
            all_return: true,
            disk_ms: (0, 5),
            present_ms: 0,
            course: Course::Crossings,
            ..self
        }
    }

    /// A pool of three. One is cut off, and an operator evicts it; before the others have answered they are gone for good, and only
    /// an operator can let the last one go on.
    fn of_last_member(self) -> Plan {
        let mut rng = fastrand::Rng::with_seed(self.seed ^ 0x6c61_7374);
        Plan {
            machines: 3,
            newcomers: 0,
            all_found: false,
            storm_ms: 45_000,
            faults: [Fault::Crash, Fault::Isolate, Fault::Evict].into(),
            strike_ms: 1_500,
            latency_ms: *rng.choice(&[(1, 10), (10, 50), (5, 200)]).unwrap_or(&(10, 50)),
            write_ms: 1_000,
            writes_max: 200,
            early_max: None,
            all_return: false,
            durable: false,
            disks_die: false,
            present_ms: 0,
            tight: 0,
            course: Course::LastMember,
            ..self
        }
    }

    /// A small pool whose nodes go back to old copies of their disks, one after another, in the quiet between writes.
    fn of_old_disks(self) -> Plan {
        let mut rng = fastrand::Rng::with_seed(self.seed ^ 0x636f_7079);
        Plan {
            machines: rng.usize(2..=4),
            newcomers: 0,
            all_found: false,
            storm_ms: rng.u64(20_000..60_000),
            faults: [Fault::Crash, Fault::Restart, Fault::Comeback, Fault::OldDisk].into(),
            latency_ms: *rng.choice(&[(1, 10), (10, 50), (5, 200)]).unwrap_or(&(10, 50)),
            strike_ms: rng.u64(2_000..6_000),
            write_ms: rng.u64(200..2_000),
            writes_max: 200,
            early_max: None,
            durable: true,
            disks_die: false,
            all_return: true,
            disk_ms: (0, 5),
            present_ms: 0,
            course: Course::OldDisks,
            ..self
        }
    }

    /// The same with few Lamport times reserved at once, so that an old copy has not reserved what its node has announced since, and
    /// with a slow network, so that clients write there before its peers are heard.
    fn with_small_steps(self) -> Plan {
        let mut rng = fastrand::Rng::with_seed(self.seed ^ 0x7374_6570);
        Plan { step_max: *rng.choice(&[1, 4, 16]).unwrap_or(&1), latency_ms: (50, 200), ..self }
    }

    /// The same with another member that hears of the old copy alone: it holds another history of that node than all others.
    fn of_two_histories(self) -> Plan {
        let plan = self.of_old_disks();
        Plan { machines: plan.machines.max(3), storm_ms: 40_000, course: Course::TwoHistories, ..plan }
    }

    /// In most plans with an old copy of a journal its node does not hear of the others before it writes; and they may have
    /// forgotten what it lacks.
    fn of_old_copies(self) -> Plan {
        let mut rng = fastrand::Rng::with_seed(self.seed ^ 0x6c6f_6e65);
        if !self.has(Fault::OldDisk) || rng.u32(..3) == 0 {
            return self;
        }
        let retain = if rng.u32(..3) == 0 { self.retain.clone() } else { vec![0] };
        Plan { retain, ..self.with_lonely_copies() }
    }

    /// An old copy does not hear of the others before clients write to it, and the others have forgotten what it lacks.
    fn with_lonely_copies(self) -> Plan {
        let mix = Mix { keyed: self.mix.keyed.max(300), ..self.mix };
        // What is acknowledged is looked for by its keys.
        let squeeze = (u64::MAX, self.squeeze.1);
        Plan { lonely: true, storm_ms: self.storm_ms.max(40_000), retain: vec![0], mix, squeeze, ..self }
    }

    /// The same with nodes that leave for good, or are away for long, in some plans; the others stay what they were.
    fn with_departures(mut self) -> Plan {
        let mut rng = fastrand::Rng::with_seed(self.seed ^ 0x6c65_6176_6500);
        // Nobody promises anything of a node that does not know that its disk is an old copy.
        if self.has(Fault::OldDisk) {
            return self;
        }
        if matches!(self.seed % 16, 9 | 12 | 14) {
            self.faults.extend([Fault::Leave, Fault::Crash, Fault::Restart]);
        }
        if matches!(self.seed % 16, 4 | 7 | 12) {
            self.faults.insert(Fault::Absence);
            self.machines = self.machines.max(3);
            self.storm_ms = rng.u64(70_000..110_000);
            self.evict_after_ms = Some(rng.u64(12_000..18_000));
            (self.write_ms, self.writes_max) = (rng.u64(100..400), self.writes_max.min(300));
        }
        self
    }

    /// All nodes start at once with one configuration: a name that stands for all of them, and that is published late.
    fn of_one_name(self) -> Plan {
        Plan { all_found: true, name: Some(Name::draw(self.seed, self.machines)), ..self }
    }

    /// A small pool whose nodes come back at other addresses while the first one links them; then that one is gone.
    fn of_moves(self) -> Plan {
        let mut rng = fastrand::Rng::with_seed(self.seed ^ 0x006d_6f76_6573);
        Plan {
            machines: 3,
            newcomers: 0,
            all_found: false,
            storm_ms: rng.u64(35_000..50_000),
            faults: [Fault::Move].into(),
            strike_ms: 1_000,
            write_ms: 300,
            early_max: None,
            durable: true,
            disks_die: false,
            all_return: false,
            course: Course::Moves,
            ..self
        }
    }

    /// A small pool, a bad network, and a copy of one of its nodes that runs beside it.
    fn of_copies(self) -> Plan {
        let mut rng = fastrand::Rng::with_seed(self.seed ^ 0x636f_7069_6573);
        let network = [
            Fault::Delay,
            Fault::Reorder,
            Fault::Duplicate,
            Fault::Loss,
            Fault::Halves,
            Fault::Isolate,
            Fault::Hold,
            Fault::Reset,
            Fault::Slow,
        ];
        let faults = network.into_iter().filter(|_| rng.u32(..3) == 0).chain([Fault::Copy]).collect();
        Plan {
            machines: rng.usize(1..=4),
            newcomers: 0,
            all_found: false,
            storm_ms: rng.u64(12_000..30_000),
            faults,
            early_max: None,
            durable: true,
            disks_die: false,
            all_return: true,
            // What was written on both since the copy was made must be there to be told apart.
            retain: vec![usize::MAX],
            tight: 0,
            course: Course::Copies,
            ..self
        }
    }

    /// A small pool in which nodes vanish one after another, with ops on their way that reach some of the others only, and are
    /// evicted before these have told each other: what evictions are about, and what random faults show too seldom.
    fn of_burials(self) -> Plan {
        let mut rng = fastrand::Rng::with_seed(self.seed ^ 0x6275_7279);
        Plan {
            machines: rng.usize(3..=4),
            newcomers: 0,
            all_found: false,
            storm_ms: rng.u64(40_000..80_000),
            faults: [Fault::Crash, Fault::Restart, Fault::Slow, Fault::Evict].into(),
            latency_ms: *rng.choice(&[(1, 10), (10, 50), (5, 200)]).unwrap_or(&(10, 50)),
            write_ms: 5_000,
            writes_max: 200,
            early_max: None,
            durable: false,
            disks_die: false,
            present_ms: 0,
            slow: 600,
            course: Course::Burials,
            ..self
        }
    }

    #[expect(
        clippy::too_many_lines,
        reason = "one draw after another, in the order in which seeds mean what they mean"
    )]
    fn storm(seed: u64) -> Plan {
        let mut rng = fastrand::Rng::with_seed(seed);
        let machines = if rng.u32(..20) == 0 { rng.usize(9..=12) } else { rng.usize(2..=7) };
        let density = *rng.choice(&[0, 150, 300, 600]).unwrap_or(&0);
        // Those that came later are drawn elsewhere, so that a seed means for the others what it did before.
        let drawn = Fault::ALL.into_iter().take_while(|fault| *fault != Fault::Leave);
        let mut faults: BTreeSet<Fault> = drawn.filter(|_| chance(&mut rng, density)).collect();
        let durable = rng.bool();
        if !durable {
            let disk = [
                Fault::Comeback,
                Fault::Blackout,
                Fault::DiskFull,
                Fault::DiskError,
                Fault::Damage,
                Fault::OldDisk,
                Fault::Shortened,
            ];
            faults.retain(|fault| !disk.contains(fault));
        }
        // The pool takes it for one history only if the lost part is on all other disks.
        if faults.contains(&Fault::OldDisk) {
            faults.remove(&Fault::Newcomer);
            faults.remove(&Fault::Damage);
        }
        let comes_back = [Fault::Comeback, Fault::Blackout, Fault::DiskError, Fault::Damage, Fault::OldDisk];
        if comes_back.iter().any(|fault| faults.contains(fault)) {
            faults.extend([Fault::Comeback, Fault::Restart]);
        }
        if faults.contains(&Fault::Restart) {
            faults.insert(Fault::Crash);
        }
        // An operator sees fit to evict a live member where he has not heard of it for long.
        if faults.contains(&Fault::Evict) {
            faults.insert(Fault::Halves);
            // Nobody promises anything of a node that does not know that its disk is an old copy.
            faults.remove(&Fault::OldDisk);
        }
        // A pool that loses its power at once goes on only if its disks do.
        let disks_die = !faults.contains(&Fault::Blackout) && !faults.contains(&Fault::OldDisk) && rng.bool();
        let small = rng.bool();
        Plan {
            seed,
            machines,
            newcomers: if faults.contains(&Fault::Newcomer) { rng.usize(1..=2) } else { 0 },
            all_found: rng.u32(..4) == 0,
            storm_ms: if faults.contains(&Fault::Evict) {
                rng.u64(15_000..40_000)
            } else if small {
                rng.u64(2_000..8_000)
            } else {
                rng.u64(8_000..30_000)
            },
            rate: rng.u32(5..=150),
            strike_ms: rng.u64(500..6_000),
            latency_ms: *rng.choice(&[(0, 2), (1, 10), (10, 50), (5, 200)]).unwrap_or(&(1, 10)),
            write_ms: *rng.choice(&[3, 10, 30, 100]).unwrap_or(&30),
            writes_max: if small { rng.u64(20..200) } else { rng.u64(100..900) },
            mix: Mix::draw(&mut rng),
            early_max: faults.contains(&Fault::EarlyFull).then(|| rng.usize(1..10)),
            audit_every: rng.u64(40..400),
            all_return: faults.contains(&Fault::Blackout) || faults.contains(&Fault::OldDisk) || rng.bool(),
            durable,
            disks_die,
            disk_ms: *rng.choice(&[(0, 0), (1, 5), (5, 50), (20, 400)]).unwrap_or(&(1, 5)),
            retain: match rng.u32(..4) {
                0 => vec![usize::MAX],
                1 => vec![0],
                2 => vec![0, 3, 30],
                _ => vec![0, 20, 200, usize::MAX],
            },
            compact: *rng.choice(&[0, 5, 50]).unwrap_or(&5),
            squeeze: (*rng.choice(&[20, 200, u64::MAX]).unwrap_or(&200), *rng.choice(&[1, 3, 1_000]).unwrap_or(&3)),
            faults,
            // Drawn last, so that a seed means for all else what it did before there were these.
            present_ms: *rng.choice(&[0, 0, 20, 200]).unwrap_or(&0),
            tight: *rng.choice(&[0, 0, 20]).unwrap_or(&0),
            slow: 250,
            course: Course::Storm,
            lonely: false,
            step_max: u64::MAX,
            evict_after_ms: None,
            name: None,
        }
    }

    /// Whether the network itself misbehaves or nodes vanish.
    pub fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }
}

impl Mix {
    fn draw(rng: &mut fastrand::Rng) -> Mix {
        let documents = *rng.choice(&[1, 2, 4, 20]).unwrap_or(&4);
        let mut weight = || if rng.u32(..3) == 0 { 0 } else { rng.u32(1..10) };
        let (put, merge, patch, delete, tx) = (weight() + 1, weight(), weight(), weight() / 3, weight());
        // Aside, and in some plans only: with what seeds meant before there were texts.
        let mut aside = fastrand::Rng::with_seed(rng.clone().u64(..) ^ 0x7465_7874);
        let text = if aside.u32(..4) == 0 { aside.u32(1..6) } else { 0 };
        let often = |rng: &mut fastrand::Rng| *rng.choice(&[0, 50, 300]).unwrap_or(&0);
        Mix {
            collections: rng.usize(1..=3),
            documents,
            put,
            merge,
            patch,
            delete,
            text,
            tx,
            keyed: often(rng),
            guarded: often(rng),
        }
    }
}
