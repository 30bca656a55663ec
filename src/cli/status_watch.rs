//! `status --watch`: the pool as a node sees it, again each second, and what has changed in between.
//!
//! On a terminal each view takes the place of the last; elsewhere they follow each other. It asks `GET /v1/pool` only: what
//! it says a second is the difference of two answers.

use std::{collections::BTreeMap, io::Write, time::Duration};

use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    Failure,
    client::Client,
    members,
    output::{self, text},
    status::{aligned, headed, list},
    watch::until_interrupted,
};

/// How often it asks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What a terminal is told: to go to the upper left; to clear what is left of the line, and of the screen.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_REST: &str = "\x1b[J";

/// Shows the pool until it is interrupted, or nobody reads on.
pub async fn watch(client: Client, json: bool) -> Result<(), Failure> {
    until_interrupted(follow(client, json)).await
}

async fn follow(client: Client, json: bool) -> Result<(), Failure> {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last: Option<Sight> = None;
    loop {
        ticks.tick().await;
        let asked = match client.get("/v1/pool").await {
            Ok(answer) => answer.json(),
            Err(failure) => Err(failure),
        };
        match asked {
            Ok(mut pool) => {
                let sight = Sight::of(&pool);
                sight.rate(last.as_ref(), &mut pool);
                show(&if json { pool.to_string() } else { described(&pool) }, json)?;
                last = Some(sight);
            }
            // What never worked is more likely a wrong URL than a node that will come back.
            Err(failure) if last.is_none() => return Err(failure),
            Err(failure) if json => output::line(&json!({ "problem": failure.to_json() }).to_string())?,
            Err(failure) => show(&failure.message, json)?,
        }
    }
}

/// How many ops there were at a moment.
struct Sight {
    at: Instant,
    ops: u64,
    /// How many of each member's were held.
    held: BTreeMap<String, u64>,
}

impl Sight {
    fn of(pool: &Value) -> Sight {
        let held = |member: &Value| (text(member, "id").to_string(), number(&member["head"], "seq"));
        let held = list(pool, "members").iter().map(held).collect();
        Sight { at: Instant::now(), ops: number(pool, "ops"), held }
    }

    /// Puts into the answer how many ops came in a second since the last one: of all, and of each member.
    fn rate(&self, last: Option<&Sight>, pool: &mut Value) {
        let Some(last) = last else { return };
        let seconds = self.at.duration_since(last.at).as_secs_f64().max(f64::EPSILON);
        let rate = |now: u64, before: u64| ((now.saturating_sub(before) as f64 / seconds) * 10.0).round() / 10.0;
        pool["ops_per_second"] = rate(self.ops, last.ops).into();
        for member in pool["members"].as_array_mut().into_iter().flatten() {
            let id = text(member, "id");
            // One that has just come has no rate yet.
            if let (Some(now), Some(before)) = (self.held.get(id), last.held.get(id)) {
                member["ops_per_second"] = rate(*now, *before).into();
            }
        }
    }
}

/// Prints a view: over the last one on a terminal.
fn show(view: &str, json: bool) -> Result<(), Failure> {
    if json || !output::to_people() {
        return output::line(view).and_then(|()| if json { Ok(()) } else { output::line("") });
    }
    output::line(&over(view))
}

/// The same, so that a terminal shows it in the place of what was there, without a flicker.
fn over(view: &str) -> String {
    let mut drawn = Vec::new();
    for (at, line) in view.lines().enumerate() {
        let begin = if at == 0 { HOME } else { "\n" };
        write!(drawn, "{begin}{line}{CLEAR_LINE}").expect("memory takes all that is written");
    }
    String::from_utf8_lossy(&drawn).into_owned() + CLEAR_REST
}

fn described(pool: &Value) -> String {
    let mut lines = headed(pool);
    let all = |name: &str| list(pool, "members").iter().filter(|member| member["link"] == name).count();
    let rate = shown_rate(pool);
    lines.push(format!("rate   {rate} operations a second"));
    lines.push(format!("links  {} linked, {} dialling, {} without", all("linked"), all("dialling"), all("none")));
    lines.push(String::new());
    let heading = ["NAME", "LINK", "STATE", "CLOCK", "LAG", "HEAD", "OPS/S", "FINALITY"].map(String::from);
    let rows: Vec<_> =
        std::iter::once(heading).chain(list(pool, "members").iter().map(|row| member(pool, row))).collect();
    lines.extend(aligned(&rows));
    lines.join("\n")
}

fn member(pool: &Value, member: &Value) -> [String; 8] {
    let lag = number(pool, "clock").saturating_sub(number(member, "clock"));
    [
        text(member, "name").into(),
        text(member, "link").into(),
        members::state(pool, member).into(),
        text(member, "clock").into(),
        lag.to_string(),
        text(&member["head"], "seq").into(),
        shown_rate(member),
        members::holds_back(pool, member).unwrap_or_default(),
    ]
}

fn shown_rate(of: &Value) -> String {
    of["ops_per_second"].as_f64().map_or("-".into(), |rate| rate.to_string())
}

/// A number that is a string in the answer; 0 where there is none.
fn number(object: &Value, name: &str) -> u64 {
    text(object, name).parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(ops: u64, clock: u64, heads: &[(&str, u64)]) -> Value {
        let member = |(name, seq): &(&str, u64)| {
            json!({ "id": name, "name": name, "link": "linked", "alive": true, "clock": (clock - 2).to_string(),
                    "head": { "seq": seq.to_string() } })
        };
        let members: Vec<Value> = heads.iter().map(member).collect();
        json!({ "ops": ops.to_string(), "clock": clock.to_string(), "docs": 1, "members": members,
                "held_back_by": [{ "member": "b", "name": "b", "why": "silent", "since_ms": 7_300 }] })
    }

    #[test]
    fn what_came_in_a_second_is_the_difference_of_two_answers() {
        let before = Sight::of(&pool(10, 12, &[("a", 4), ("b", 6)]));
        let mut now = pool(25, 30, &[("a", 9), ("b", 16), ("c", 0)]);
        let later = Sight { at: before.at + Duration::from_secs(2), ..Sight::of(&now) };
        later.rate(Some(&before), &mut now);
        assert_eq!(now["ops_per_second"], 7.5);
        let rates: Vec<&Value> = list(&now, "members").iter().map(|member| &member["ops_per_second"]).collect();
        assert_eq!(rates, [&json!(2.5), &json!(5.0), &Value::Null]);
        let shown = described(&now);
        for line in [
            "rate   7.5 operations a second",
            "links  3 linked, 0 dialling, 0 without",
            "a     linked  alive  28     2    9     2.5",
            "b     linked  alive  28     2    16    5      held back: silent, last heard of 7 s ago",
            "c     linked  alive  28     2    0     -",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{line:?} is not in\n{shown}");
        }
    }

    #[test]
    fn a_terminal_shows_each_view_over_the_last() {
        assert_eq!(over("a\nb"), "\x1b[Ha\x1b[K\nb\x1b[K\x1b[J");
    }
}
