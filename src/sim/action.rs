//! What happens in a simulated world, one action at a time, and its form in an event file.
//!
//! An action says everything: applied in the same order to a fresh [`super::World`], the same actions do the same.
//! Whatever was left to chance was settled by the [`super::Driver`] before. So a run can be written down, read, cut
//! shorter by hand and replayed.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    op::{Command, Guard, NodeId},
    plant::Rule,
    replica::Draft,
};

/// One step of a simulation. Nodes, link ends and dials are numbered in the order in which they came about; a message
/// is named by the end that sent it and its number there.
#[derive(Clone, Debug)]
pub enum Action {
    /// A rule of the core is left out from here on.
    LeaveOut(Option<Rule>),
    /// The early buffers take no more than so many ops.
    EarlyMax(usize),
    /// Idempotency keys are remembered for so long, and a slice of a snapshot has so many documents.
    Squeeze(u64, usize),
    /// Nodes reserve at most so many Lamport times at once.
    SqueezeStep(u64),
    /// A node begins.
    Start(Birth),
    /// A node is gone, without a word; a silent one takes its machine with it, so that nothing answers there. Of the
    /// records that its disk had not yet stored, so many are there afterwards all the same.
    Crash(usize, bool, usize),
    /// A node's disk has stored its journal as far as this place.
    Stored(usize, u64),
    /// A node's disk runs full, or has room again.
    Full(usize, bool),
    /// A node's journal has grown long.
    Compact(usize),
    /// A node's memory is short, or no longer.
    Tight(usize, bool),
    /// A node's timer goes off.
    Tick(usize),
    /// A client asks a node for an op.
    Submit(usize, Draft),
    /// An operator cuts a node's links, or joins them again.
    Cut(usize, bool),
    /// An operator tells a node to join another.
    Join(usize, String),
    /// A dial reaches its target.
    Accept(usize),
    /// The dialler learns that its dial came through.
    Connected(usize),
    /// The dialler learns that its dial came to nothing.
    DialFailed(usize),
    /// The dialler learns the addresses of the name that it dials.
    Resolved(usize, Vec<String>),
    /// Nodes that look for each other had the time to: they are to be one pool.
    United,
    /// A message arrives.
    Deliver(usize, u64),
    /// A message arrives, and will arrive again.
    Copy(usize, u64),
    /// A message arrives cut short.
    Garble(usize, u64),
    /// A message is lost.
    Lose(usize, u64),
    /// The last batch of ops has left this end.
    Flushed(usize),
    /// A client of a node shows itself in a room; with no state it is gone.
    Present(usize, Showing),
    /// The last message about presence has left this end.
    Shown(usize),
    /// The network breaks a link; this end learns of it.
    Reset(usize),
    /// A node is compared with the naive model.
    Audit(usize),
    /// The network has been whole and nobody has written for long: all that must hold then is checked.
    Quiet,
    /// An op was written in a quiet pool a moment ago: everyone must hold it.
    Spread,
}

/// Who shows what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Showing {
    /// The room.
    pub room: String,
    /// The client.
    pub client: String,
    /// What it shows; none if it is gone.
    pub state: Option<String>,
}

/// How a node begins.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Birth {
    /// The machine it runs on; a node that comes back there has the same URL.
    pub machine: usize,
    /// Its id.
    pub id: Uuid,
    /// Where it is dialled.
    pub url: String,
    /// Where it looks for a pool.
    pub join: Vec<String>,
    /// Whether it founds a pool.
    pub found: bool,
    /// With how many nodes.
    pub found_with: usize,
    /// The name of its pool.
    pub pool: Option<String>,
    /// Seed of its own choices.
    pub seed: u64,
    /// Its wall clock at the start.
    pub wall_ms: u64,
    /// Whether it keeps a journal.
    pub durable: bool,
    /// The node whose journal it goes on from.
    pub journal: Option<usize>,
    /// How many of its first records are gone, because a snapshot stands for them.
    pub cut: usize,
    /// What is wrong with the rest of that journal.
    pub wrong: Wrong,
    /// How many ops stay in its log.
    pub retain: usize,
    /// After which silence it evicts others.
    #[serde(default)]
    pub evict_after_ms: Option<u64>,
    /// The ids that nodes had on its machine before it, as far as its data directory knows.
    #[serde(default)]
    pub had: BTreeSet<NodeId>,
}

/// What can be wrong with a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wrong {
    /// Nothing.
    Nothing,
    /// The record at this place cannot be read, which is noticed.
    Damaged(usize),
    /// It is a copy from when it had this many records, which nobody knows.
    Old(usize),
}

/// A line that is no action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine(pub String);

#[derive(Serialize, Deserialize)]
struct DraftText<'a> {
    key: Option<String>,
    #[serde(borrow)]
    guards: Vec<Guard<'a>>,
    #[serde(borrow)]
    commands: Vec<Command<'a>>,
    present: bool,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::LeaveOut(rule) => write!(f, "leave-out {}", rule.map_or("none".into(), |rule| format!("{rule:?}"))),
            Action::EarlyMax(most) => write!(f, "early-max {most}"),
            Action::Squeeze(span, slice) => write!(f, "squeeze {span} {slice}"),
            Action::SqueezeStep(most) => write!(f, "squeeze-step {most}"),
            Action::Start(birth) => write!(f, "start {}", serde_json::to_string(birth).map_err(|_| fmt::Error)?),
            Action::Crash(node, silent, kept) => write!(f, "crash {node} {silent} {kept}"),
            Action::Stored(node, end) => write!(f, "stored {node} {end}"),
            Action::Full(node, full) => write!(f, "full {node} {full}"),
            Action::Compact(node) => write!(f, "compact {node}"),
            Action::Tight(node, tight) => write!(f, "tight {node} {tight}"),
            Action::Tick(node) => write!(f, "tick {node}"),
            Action::Submit(node, draft) => write!(f, "submit {node} {}", draft_text(draft).ok_or(fmt::Error)?),
            Action::Cut(node, cut) => write!(f, "cut {node} {cut}"),
            Action::Join(node, url) => write!(f, "join {node} {url}"),
            Action::Accept(dial) => write!(f, "accept {dial}"),
            Action::Connected(dial) => write!(f, "connected {dial}"),
            Action::DialFailed(dial) => write!(f, "dial-failed {dial}"),
            Action::Resolved(dial, addresses) => write!(f, "resolved {dial} {}", addresses.join(",")),
            Action::United => f.write_str("united"),
            Action::Deliver(end, number) => write!(f, "deliver {end} {number}"),
            Action::Copy(end, number) => write!(f, "copy {end} {number}"),
            Action::Garble(end, number) => write!(f, "garble {end} {number}"),
            Action::Lose(end, number) => write!(f, "lose {end} {number}"),
            Action::Flushed(end) => write!(f, "flushed {end}"),
            Action::Present(node, showing) => {
                write!(f, "present {node} {}", serde_json::to_string(showing).map_err(|_| fmt::Error)?)
            }
            Action::Shown(end) => write!(f, "shown {end}"),
            Action::Reset(end) => write!(f, "reset {end}"),
            Action::Audit(node) => write!(f, "audit {node}"),
            Action::Quiet => f.write_str("quiet"),
            Action::Spread => f.write_str("spread"),
        }
    }
}

impl FromStr for Action {
    type Err = BadLine;

    fn from_str(line: &str) -> Result<Action, BadLine> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
        let bad = || BadLine(line.to_string());
        let index = || first.parse::<usize>().map_err(|_| bad());
        let message = || Ok::<_, BadLine>((index()?, second.parse::<u64>().map_err(|_| bad())?));
        let flag = || second.parse::<bool>().map_err(|_| bad());
        Ok(match verb {
            "leave-out" => Action::LeaveOut(rule(first).map_err(|()| bad())?),
            "early-max" => Action::EarlyMax(index()?),
            "squeeze-step" => Action::SqueezeStep(first.parse().map_err(|_| bad())?),
            "squeeze" => Action::Squeeze(first.parse().map_err(|_| bad())?, second.parse().map_err(|_| bad())?),
            "start" => Action::Start(serde_json::from_str(rest).map_err(|_| bad())?),
            "crash" => {
                let (silent, kept) = second.split_once(' ').ok_or_else(bad)?;
                let silent = silent.parse().map_err(|_| bad())?;
                Action::Crash(index()?, silent, kept.parse().map_err(|_| bad())?)
            }
            "stored" => message().map(|(node, end)| Action::Stored(node, end))?,
            "full" => Action::Full(index()?, flag()?),
            "compact" => Action::Compact(index()?),
            "tight" => Action::Tight(index()?, flag()?),
            "tick" => Action::Tick(index()?),
            "submit" => Action::Submit(index()?, draft(second).ok_or_else(bad)?),
            "cut" => Action::Cut(index()?, flag()?),
            "join" => Action::Join(index()?, second.to_string()),
            "accept" => Action::Accept(index()?),
            "connected" => Action::Connected(index()?),
            "dial-failed" => Action::DialFailed(index()?),
            "resolved" => Action::Resolved(index()?, second.split(',').map(str::to_string).collect()),
            "united" => Action::United,
            "deliver" => message().map(|(end, number)| Action::Deliver(end, number))?,
            "copy" => message().map(|(end, number)| Action::Copy(end, number))?,
            "garble" => message().map(|(end, number)| Action::Garble(end, number))?,
            "lose" => message().map(|(end, number)| Action::Lose(end, number))?,
            "flushed" => Action::Flushed(index()?),
            "present" => Action::Present(index()?, serde_json::from_str(second).map_err(|_| bad())?),
            "shown" => Action::Shown(index()?),
            "reset" => Action::Reset(index()?),
            "audit" => Action::Audit(index()?),
            "quiet" => Action::Quiet,
            "spread" => Action::Spread,
            _ => return Err(bad()),
        })
    }
}

/// The rule of this name; none for `none`.
pub fn rule(name: &str) -> Result<Option<Rule>, ()> {
    if name == "none" {
        return Ok(None);
    }
    Rule::ALL.into_iter().chain(Rule::RARE).find(|rule| format!("{rule:?}") == name).map(Some).ok_or(())
}

fn draft_text(draft: &Draft) -> Option<String> {
    let Draft { key, guards, commands, present } = draft.clone();
    serde_json::to_string(&DraftText { key, guards, commands, present }).ok()
}

fn draft(text: &str) -> Option<Draft> {
    let DraftText { key, guards, commands, present } = serde_json::from_str(text).ok()?;
    let guards = guards.into_iter().map(Guard::into_owned);
    let commands = commands.into_iter().map(Command::into_owned);
    Some(Draft { key, guards: guards.collect(), commands: commands.collect(), present })
}
