//! The log, on standard error: what goes to it, in which form, and more or less of it while the program runs.
//!
//! By signals and not by a call of the API: whoever may send them is who started the node, or root; they need no token, and
//! they arrive while the node answers nobody. What a filter cannot say with them, a restart with `--log-level` does.

use std::io::{self, IsTerminal};

use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::LevelFilter, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use super::Failure;

/// What each SIGUSR1 adds to the filter that the program was started with.
const MORE: [&str; 2] = ["lamplight=debug", "lamplight=trace"];

/// Flags about the log, of commands that run nodes.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// What goes to the log, on standard error: error, warn, info, debug or trace, or several of them for parts of the
    /// program, as in `warn,lamplight::api=debug`. While the node runs, SIGUSR1 makes it say more (debug, then trace), and
    /// SIGUSR2 as much as this again.
    #[arg(long, env = "LAMPLIGHT_LOG", value_name = "FILTER", default_value = "info", value_parser = checked)]
    log_level: String,
    /// How its lines look: for people, or one JSON object each.
    #[arg(long, env = "LAMPLIGHT_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t)]
    log_format: Format,
}

/// How lines of the log look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    #[default]
    Text,
    Json,
}

/// A log under way, whose filter can be changed.
pub struct Log {
    filter: String,
    handle: reload::Handle<EnvFilter, Registry>,
}

impl Log {
    /// Begins the log: as the flags say, or for a command that has none as the environment does.
    pub fn begin(args: Option<&LogArgs>) -> Log {
        let told = || std::env::var("LAMPLIGHT_LOG").ok().filter(|told| parsed(told).is_ok());
        let filter = args.map(|args| args.log_level.clone()).or_else(told).unwrap_or_else(|| "info".into());
        let (layer, handle) = reload::Layer::new(parsed(&filter).expect("checked when it was read"));
        let plain = std::env::var_os("NO_COLOR").is_some_and(|said| !said.is_empty());
        let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal() && !plain);
        let lines = match args.map(|args| args.log_format) {
            Some(Format::Json) => lines.json().flatten_event(true).with_current_span(false).boxed(),
            Some(Format::Text) | None => lines.boxed(),
        };
        tracing_subscriber::registry().with(layer).with(lines).init();
        Log { filter, handle }
    }

    /// Follows the signals that ask for more and for less, until the program ends. Must be called within a runtime.
    pub fn follow_signals(self) -> Result<(), Failure> {
        let unavailable = |error: io::Error| Failure::new(format!("signals cannot be received: {error}"));
        let mut more = signal(SignalKind::user_defined1()).map_err(unavailable)?;
        let mut less = signal(SignalKind::user_defined2()).map_err(unavailable)?;
        tokio::spawn(async move {
            let mut steps = 0;
            loop {
                tokio::select! {
                    _ = more.recv() => steps = MORE.len().min(steps + 1),
                    _ = less.recv() => steps = 0,
                }
                let filter = [&[&*self.filter], &MORE[..steps]].concat().join(",");
                let tell = || tracing::info!(filter, "the log's filter, as a signal asks");
                // While the one that says more is there, so that it lets the line through.
                if steps == 0 {
                    tell();
                }
                match parsed(&filter).map(|parsed| self.handle.reload(parsed)) {
                    Ok(Ok(())) if steps > 0 => tell(),
                    Ok(Ok(())) => {}
                    _ => tracing::error!(filter, "the log's filter cannot be changed to this"),
                }
            }
        });
        Ok(())
    }
}

fn parsed(filter: &str) -> Result<EnvFilter, String> {
    let builder = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    builder.parse(filter).map_err(|error| error.to_string())
}

fn checked(filter: &str) -> Result<String, String> {
    parsed(filter).map(|_| filter.to_string())
}
