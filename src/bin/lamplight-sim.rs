//! The simulator's program: runs seeds by the thousand, replays event files, and measures.
//!
//! All it does is in `lamplight::sim`; here are only the command line, the progress bar and the tables.

use std::{fs, ops::Range, path::PathBuf, process::ExitCode, time::Instant};

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use lamplight::{
    plant::Rule,
    sim::{self, Scale},
};

/// Finds bugs in Lamplight's core: many nodes on virtual time, every fault of the network, and what must hold.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// How many seeds to run.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Threads to run them on.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Run one seed and write its event file, whether it fails or not.
    #[arg(long, conflicts_with_all = ["seeds", "from", "replay"])]
    seed: Option<u64>,
    /// Apply the actions of an event file.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Leave a rule of the core out, by its name in `plants`; with --seed.
    #[arg(long, value_name = "RULE", requires = "seed")]
    leave_out: Option<String>,
    /// Where event files go.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Leave out one rule of the core after another, and tell how many seeds it takes to notice.
    Plants {
        /// Seeds to try for each rule.
        #[arg(long, default_value_t = 1_000)]
        cap: u64,
    },
    /// Run pools in which one member sends what no honest one would; --seeds, --from and --threads before the word.
    Malice,
    /// Form large pools, follow ops through them, cut them in halves and heal them.
    Scale {
        /// Nodes; several pools one after the other.
        #[arg(long, num_args = 1.., default_values_t = [12, 300])]
        nodes: Vec<usize>,
        /// Ops to follow.
        #[arg(long, default_value_t = 100)]
        ops: usize,
        /// Length of the cut, in seconds of virtual time.
        #[arg(long, default_value_t = 600)]
        cut: u64,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let passed = match (&args.command, &args.replay, args.seed) {
        (Some(Command::Plants { cap }), ..) => plants(*cap),
        (Some(Command::Malice), ..) => malice(args.from..args.from + args.seeds, args.threads),
        (Some(Command::Scale { nodes, ops, cut }), ..) => nodes.iter().all(|nodes| scale(*nodes, *ops, *cut)),
        (None, Some(file), _) => replay(file),
        (None, None, Some(seed)) => one(seed, &args),
        (None, None, None) => many(args.from..args.from + args.seeds, &args),
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs seeds; those that fail leave their event files.
fn many(seeds: Range<u64>, args: &Args) -> bool {
    let bar = bar(seeds.end - seeds.start, "seeds");
    let began = Instant::now();
    let campaign = sim::run_seeds(seeds, args.threads, &|| bar.inc(1));
    bar.finish_and_clear();
    let took = began.elapsed();
    println!("{}", campaign.tally);
    println!(
        "{:>12.0} steps a second, {:.1} s in all",
        campaign.tally.steps as f64 / took.as_secs_f64(),
        took.as_secs_f64()
    );
    for failure in &campaign.failures {
        println!("seed {} at {} ms: {}", failure.seed, failure.at_ms, failure.violation);
        write_events(failure.seed, None, args);
    }
    let lacking = campaign.tally.lacking();
    if !lacking.is_empty() {
        println!("void: these never occurred: {}", lacking.join(", "));
    }
    campaign.failures.is_empty() && lacking.is_empty()
}

fn malice(seeds: Range<u64>, threads: usize) -> bool {
    let bar = bar(seeds.end - seeds.start, "seeds");
    let (total, failures) = sim::malicious_seeds(seeds, threads, &|| bar.inc(1));
    bar.finish_and_clear();
    println!("{:>12} frames forged", total.forged);
    println!("{:>12} writes acknowledged by honest nodes", total.acknowledged);
    println!("{:>12} times that an honest node came back as another", total.reborn);
    failures.iter().for_each(|failure| println!("seed {}: {}", failure.seed, failure.violation));
    failures.is_empty()
}

fn one(seed: u64, args: &Args) -> bool {
    let Ok(rule) = args.leave_out.as_deref().map_or(Ok(None), sim::rule) else {
        println!("no such rule: one of {:?}", Rule::ALL);
        return false;
    };
    let report = sim::run_seed(seed, rule, None);
    println!("{}\n{:>12} steps, trace {}", report.tally, report.tally.steps, report.trace);
    write_events(seed, rule, args);
    report.broken.is_none_or(|(at_ms, violation)| {
        println!("seed {seed} at {at_ms} ms: {violation}");
        false
    })
}

fn write_events(seed: u64, rule: Option<Rule>, args: &Args) {
    let file = args.out.join(format!("seed-{seed}.events"));
    match fs::write(&file, sim::event_file(seed, rule)) {
        Ok(()) => println!("  replay with: lamplight-sim --replay {}", file.display()),
        Err(error) => println!("  cannot write {}: {error}", file.display()),
    }
}

fn replay(file: &PathBuf) -> bool {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            println!("cannot read {}: {error}", file.display());
            return false;
        }
    };
    match sim::replay(&text) {
        Ok(None) => println!("all held"),
        Ok(Some((line, violation))) => {
            println!("line {line}: {violation}");
            return false;
        }
        Err(bad) => {
            println!("not an event file: {}", bad.0);
            return false;
        }
    }
    true
}

/// The table of ARCHITECTURE.md.
fn plants(cap: u64) -> bool {
    let bar = bar(Rule::ALL.len() as u64, "rules");
    let mut table = String::from("| rule left out | seeds to find it | what is broken then |\n|---|---|---|\n");
    let mut all = true;
    for rule in Rule::ALL {
        let found = sim::seeds_to_find(rule, cap);
        let row = found.as_ref().map_or(format!("| `{rule:?}` | not in {cap} | – |"), |failure| {
            format!("| `{rule:?}` | {} | {} |", failure.seed + 1, failure.violation.invariant)
        });
        all &= found.is_some();
        table.push_str(&row);
        table.push('\n');
        bar.inc(1);
    }
    bar.finish_and_clear();
    print!("{table}");
    all
}

fn scale(nodes: usize, ops: usize, cut_s: u64) -> bool {
    let began = Instant::now();
    match sim::scale(nodes, ops, cut_s * 1_000, 1) {
        Ok(Scale {
            nodes,
            formed_ms,
            links,
            ops,
            spread_ms,
            duplicates,
            cut_ms,
            cut_ops,
            healed_ms,
            final_ms,
            events,
        }) => {
            println!(
                "{nodes} nodes are one pool after {formed_ms} ms, with {} to {} links, {:.1} on average",
                links.0, links.2, links.1
            );
            println!("  {ops} ops reach all: median {} ms, worst {} ms", spread_ms.0, spread_ms.1);
            println!(
                "  duplicates of an op a node: {:.2} on average, {:.2} at the worst node",
                duplicates.0, duplicates.1
            );
            println!("  cut in halves for {} s with {cut_ops} ops: equal {healed_ms} ms after it", cut_ms / 1_000);
            println!("  everything final at every node {final_ms} ms later, nobody waiting for it");
            let took = began.elapsed().as_secs_f64();
            println!("  {events} events in {took:.1} s, {:.0} a second", events as f64 / took);
            true
        }
        Err(violation) => {
            println!("{nodes} nodes: {violation}");
            false
        }
    }
}

fn bar(length: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    let style =
        ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg} {eta}").unwrap_or(ProgressStyle::default_bar());
    bar.set_style(style);
    bar.set_message(what.to_string());
    bar
}
