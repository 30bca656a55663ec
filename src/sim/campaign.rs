//! Many runs: seeds on several threads, event files of what failed, and their replay.

use std::{
    cell::RefCell,
    ops::Range,
    panic::{self, AssertUnwindSafe},
    str::FromStr,
    sync::{
        Mutex, Once,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    Violation,
    action::{Action, BadLine},
    driver::{Driver, Report},
    malice::{Malice, malice},
    plan::Plan,
    tally::Tally,
    world::World,
};
use crate::plant::{self, Rule};

/// A seed that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// When, in virtual time.
    pub at_ms: u64,
    /// What was broken.
    pub violation: Violation,
}

/// What a campaign has come to.
#[derive(Debug, Default)]
pub struct Campaign {
    /// What occurred in all runs together.
    pub tally: Tally,
    /// The seeds that failed.
    pub failures: Vec<Failure>,
}

thread_local! {
    /// Where the last panic of this thread was, and what it said.
    static PANICKED: RefCell<Option<String>> = const { RefCell::new(None) };
    /// Whether panics of this thread are caught and told as violations.
    static QUIET: RefCell<bool> = const { RefCell::new(false) };
}

/// Runs one seed. `left_out` is a bug to plant; `events` takes the lines of an event file.
pub fn run_seed(seed: u64, left_out: Option<Rule>, events: Option<&mut Vec<String>>) -> Report {
    let plan = Plan::draw(seed);
    let run = || Driver::new(plan, true, events).run(left_out);
    let report = without_panic(run).unwrap_or_else(|violation| Report {
        tally: Tally::default(),
        trace: String::new(),
        broken: Some((0, violation)),
    });
    plant::leave_out(None);
    plant::squeeze_early(usize::MAX);
    plant::squeeze_span(u64::MAX);
    plant::squeeze_slice(usize::MAX);
    plant::squeeze_step(u64::MAX);
    report
}

/// Runs seeds on so many threads; `progress` is called after each.
pub fn run_seeds(seeds: Range<u64>, threads: usize, progress: &(dyn Fn() + Sync)) -> Campaign {
    let campaign = Mutex::new(Campaign::default());
    on_threads(seeds, threads, &|seed| {
        let report = run_seed(seed, None, None);
        let mut campaign = campaign.lock().expect("no thread panics while it holds the lock");
        campaign.tally.add(&Tally { seeds: 1, ..report.tally });
        campaign.failures.extend(report.broken.map(|(at_ms, violation)| Failure { seed, at_ms, violation }));
        drop(campaign);
        progress();
    });
    let mut campaign = campaign.into_inner().expect("all threads are joined");
    campaign.failures.sort_by_key(|failure| failure.seed);
    campaign
}

/// Runs seeds in which one member is malicious: what they come to together, and those that failed.
pub fn malicious_seeds(seeds: Range<u64>, threads: usize, progress: &(dyn Fn() + Sync)) -> (Malice, Vec<Failure>) {
    let all = Mutex::new((Malice::default(), Vec::new()));
    on_threads(seeds, threads, &|seed| {
        let run = run_malice(seed, None);
        let mut all = all.lock().expect("no thread panics while it holds the lock");
        match run {
            Ok(run) => all.0.add(run),
            Err(violation) => all.1.push(Failure { seed, at_ms: 0, violation }),
        }
        drop(all);
        progress();
    });
    let (total, mut failures) = all.into_inner().expect("all threads are joined");
    failures.sort_by_key(|failure| failure.seed);
    (total, failures)
}

fn on_threads(seeds: Range<u64>, threads: usize, run: &(dyn Fn(u64) + Sync)) {
    let next = AtomicU64::new(seeds.start);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    run(seed);
                }
            });
        }
    });
}

/// Runs one seed in which one member is malicious.
fn run_malice(seed: u64, left_out: Option<Rule>) -> Result<Malice, Violation> {
    plant::leave_out(left_out);
    let run = without_panic(|| malice(seed)).and_then(|run| run);
    plant::leave_out(None);
    run
}

/// The first seed below `cap` that finds a planted bug, and what it breaks.
pub fn seeds_to_find(rule: Rule, cap: u64) -> Option<Failure> {
    let broken = |seed| {
        if rule.needs_malice() {
            return run_malice(seed, Some(rule)).err().map(|violation| (0, violation));
        }
        run_seed(seed, Some(rule), None).broken
    };
    (0..cap).find_map(|seed| broken(seed).map(|(at_ms, violation)| Failure { seed, at_ms, violation }))
}

/// The event file of a seed.
pub fn event_file(seed: u64, left_out: Option<Rule>) -> String {
    let mut events = Vec::new();
    let report = run_seed(seed, left_out, Some(&mut events));
    let mut text = format!("# lamplight-sim, seed {seed}: TIME-IN-MS ACTION, applied in this order by --replay\n");
    events.iter().for_each(|line| {
        text.push_str(line);
        text.push('\n');
    });
    if let Some((at_ms, violation)) = report.broken {
        text.push_str(&format!("# at {at_ms} ms: {violation}\n"));
    }
    text
}

/// Applies the actions of an event file, and says what they break and in which line.
pub fn replay(text: &str) -> Result<Option<(usize, Violation)>, BadLine> {
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split("  # ").next().unwrap_or(line);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = || BadLine(format!("line {}: {line}", number + 1));
        let (at_ms, action) = line.split_once(' ').ok_or_else(bad)?;
        let at_ms: u64 = at_ms.parse().map_err(|_| bad())?;
        lines.push((number + 1, at_ms, Action::from_str(action).map_err(|_| bad())?));
    }
    let mut world = World::new(true);
    let mut current = 0;
    let applied = without_panic(|| {
        lines.iter().try_for_each(|(number, at_ms, action)| {
            current = *number;
            world.apply(*at_ms, action).map(drop)
        })
    });
    plant::leave_out(None);
    plant::squeeze_early(usize::MAX);
    plant::squeeze_span(u64::MAX);
    plant::squeeze_slice(usize::MAX);
    plant::squeeze_step(u64::MAX);
    Ok(applied.and_then(|result| result).err().map(|violation| (current, violation)))
}

/// Turns a panic of the core into a broken promise.
fn without_panic<T>(run: impl FnOnce() -> T) -> Result<T, Violation> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if QUIET.with_borrow(|quiet| *quiet) {
                PANICKED.set(Some(info.to_string()));
            } else {
                usual(info);
            }
        }));
    });
    QUIET.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    QUIET.set(false);
    result.map_err(|_| Violation {
        invariant: "nothing panics",
        detail: PANICKED.take().unwrap_or_else(|| "without a word".into()),
    })
}
