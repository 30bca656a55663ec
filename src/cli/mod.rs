//! The program for people: what the command line takes, and where it goes.
//!
//! `serve` and `demo` run nodes; `check` reads the disk of one that does not run. The other commands are clients of the REST interface (docs/API.md), rest on `client`,
//! and know nothing of a node's insides.

/// The end of a client command's help: examples, then what scripts need to know.
macro_rules! examples {
    ($examples:literal) => {
        concat!(
            "Examples:\n",
            $examples,
            "\n\n\
             Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 a condition failed (409 or 412),\n\
             5 no node can be reached, or none is ready, 6 not final, or not held by as many, in time (with --wait)."
        )
    };
}

mod access;
mod audit;
mod backup;
mod bench;
mod catching_up;
mod cell;
mod chapter;
mod check;
mod client;
mod config;
mod data;
mod descriptors;
mod documents;
mod evict_after;
mod export;
mod final_watch;
mod headway;
mod history;
mod ids;
mod import;
mod landing;
mod leaving;
mod limits;
mod logging;
mod manual;
mod members;
mod node_key;
mod output;
mod pages;
mod query;
mod records;
mod secret;
mod serve;
mod size;
mod status;
mod status_watch;
mod table;
mod tx;
mod watch;
mod wire;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use logging::{Log, LogArgs};
use serde_json::{Value, json};

/// A leaderless live database: write to any node, cut the network, converge.
#[derive(Debug, Parser)]
#[command(name = "lamplight", version, propagate_version = true)]
#[command(after_help = examples!(
    "  lamplight demo
  lamplight put notes milk '{\"buy\":true}'
  lamplight list notes"
))]
struct Cli {
    /// File of what flags and variables leave open, in TOML. Its keys are the flags that have a variable, without the two
    /// hyphens: listen = "0.0.0.0:7171". Flags outweigh variables, and these the file.
    #[arg(long, env = config::VARIABLE, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node.
    Serve(Box<serve::ServeArgs>),
    /// Run three linked nodes in this process, each with the page, on ports 7171 to 7173.
    Demo(serve::DemoArgs),
    /// Print a document.
    Get(documents::GetArgs),
    /// Create or replace a document.
    Put(documents::PutArgs),
    /// Change parts of a document, by a merge patch or a JSON Patch.
    Patch(documents::PatchArgs),
    /// Delete a document.
    Delete(documents::DeleteArgs),
    /// List a collection's documents, or the collections.
    List(documents::ListArgs),
    /// Show the documents that a filter holds for, as a table.
    Query(query::QueryArgs),
    /// Show what happened to a document, and what was overwritten.
    History(history::HistoryArgs),
    /// Write several documents as one operation: wholly or not at all.
    Tx(tx::TxArgs),
    /// Follow changes: one line of JSON for each.
    Watch(watch::WatchArgs),
    /// Show the pool as a node sees it, or whether the node is ready.
    Status(status::StatusArgs),
    /// List the members of the pool, and who holds finality back.
    Members(members::MembersArgs),
    /// Evict a member that is gone for good, so that finality goes on without it.
    Evict(members::EvictArgs),
    /// Let a node leave its pool for good.
    Retire(members::RetireArgs),
    /// Write the documents of collections to a file: JSON lines or CSV.
    Export(export::ExportArgs),
    /// Write many documents from a file: JSON lines or CSV.
    Import(import::ImportArgs),
    /// Measure a running node: writes a second, and the time from a write to its event on another node.
    Bench(bench::BenchArgs),
    /// Write a copy of all that a running node holds.
    Backup(backup::BackupArgs),
    /// Make a node's data directory from a backup.
    Restore(backup::RestoreArgs),
    /// Check the data on disk of a node that does not run. Changes nothing.
    Check(check::CheckArgs),
    /// Print the completions of a shell.
    Completions(manual::CompletionsArgs),
    /// Print or write man pages.
    Man(manual::ManArgs),
}

impl Command {
    /// What a command that runs nodes says of the log.
    fn log(&self) -> Option<&LogArgs> {
        match self {
            Command::Serve(args) => Some(&args.log),
            Command::Demo(args) => Some(&args.log),
            _ => None,
        }
    }

    /// Whether what is said is for a program.
    fn json(&self) -> bool {
        match self {
            Command::Serve(_) | Command::Demo(_) | Command::Completions(_) | Command::Man(_) => false,
            Command::Get(args) => args.target.json,
            Command::Put(args) => args.target.json,
            Command::Patch(args) => args.target.json,
            Command::Delete(args) => args.target.json,
            Command::List(args) => args.target.json,
            Command::Query(args) => args.target.json,
            Command::History(args) => args.target.json,
            Command::Tx(args) => args.target.json,
            Command::Watch(args) => args.target.json,
            Command::Status(args) => args.target.json,
            Command::Members(args) => args.target.json,
            Command::Evict(args) => args.target.json,
            Command::Retire(args) => args.target.json,
            Command::Export(args) => args.target.json,
            Command::Import(args) => args.target.json,
            Command::Bench(args) => args.target.json,
            Command::Backup(args) => args.target.json,
            Command::Restore(args) => args.json,
            Command::Check(args) => args.json,
        }
    }
}

/// What went wrong, in words for the user, and the exit code that a script sees.
#[derive(Debug)]
pub struct Failure {
    message: String,
    code: u8,
    /// The problem document, where a node gave one.
    problem: Option<Value>,
}

impl Failure {
    /// Exit code 1: it could not be done.
    fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), code: 1, problem: None }
    }

    /// Exit code 2: it was asked for in a wrong way.
    fn usage(message: impl Into<String>) -> Failure {
        Failure { code: 2, ..Failure::new(message) }
    }

    /// Exit code 5: no node can be reached, or none is ready.
    fn unreachable(message: impl Into<String>) -> Failure {
        Failure { code: 5, ..Failure::new(message) }
    }

    /// Exit code 6: it was done, and what was waited for has not come in the time that was given.
    fn tentative(message: impl Into<String>) -> Failure {
        Failure { code: 6, ..Failure::new(message) }
    }

    /// Nobody reads standard output any more, as in `lamplight list … | head`. There is no one to tell, and to scripts
    /// it is no failure.
    fn unread() -> Failure {
        Failure { code: 0, ..Failure::new("") }
    }

    /// The same as a problem document (RFC 9457).
    fn to_json(&self) -> Value {
        let own = || json!({ "type": "about:blank", "title": "lamplight failed", "detail": self.message });
        self.problem.clone().unwrap_or_else(own)
    }
}

/// Runs the program; `give_back` has its allocator give what is free back to the system.
pub fn main(give_back: fn()) -> ExitCode {
    let line: Vec<OsString> = std::env::args_os().collect();
    let matches = match config::parse(Cli::command(), &line) {
        Ok(matches) => matches,
        Err(failure) => return fail(&failure, false),
    };
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let log = Log::begin(cli.command.log());
    let json = cli.command.json();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::new(format!("the runtime does not start: {error}")), json),
    };
    let outcome = runtime.block_on(run(cli.command, log, give_back));
    // A thread that waits for standard input or for a reader of standard output does not keep the program.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure, json),
    }
}

async fn run(command: Command, log: Log, give_back: fn()) -> Result<(), Failure> {
    if command.log().is_some() {
        log.follow_signals()?;
    }
    match command {
        Command::Serve(args) => serve::serve(*args, give_back).await,
        Command::Demo(args) => serve::demo(args, give_back).await,
        Command::Get(args) => documents::get(args).await,
        Command::Put(args) => documents::put(args).await,
        Command::Patch(args) => documents::patch(args).await,
        Command::Delete(args) => documents::delete(args).await,
        Command::List(args) => documents::list(args).await,
        Command::Query(args) => query::query(args).await,
        Command::History(args) => history::history(args).await,
        Command::Tx(args) => tx::tx(args).await,
        Command::Watch(args) => watch::watch(args).await,
        Command::Status(args) => status::status(args).await,
        Command::Members(args) => members::members(args).await,
        Command::Evict(args) => members::evict(args).await,
        Command::Retire(args) => members::retire(args).await,
        Command::Export(args) => export::export(args).await,
        Command::Import(args) => import::import(args).await,
        Command::Bench(args) => bench::bench(args).await,
        // Nothing else runs in this process: it may wait for the disk here.
        Command::Backup(args) => backup::backup(args).await,
        Command::Restore(args) => backup::restore(args).await,
        Command::Check(args) => check::check(args),
        Command::Completions(args) => manual::completions(args),
        Command::Man(args) => manual::man(args),
    }
}

fn fail(failure: &Failure, json: bool) -> ExitCode {
    match (failure.code, json) {
        (0, _) => {}
        (_, true) => eprintln!("{}", failure.to_json()),
        (_, false) => eprintln!("lamplight: {}", failure.message),
    }
    ExitCode::from(failure.code)
}
