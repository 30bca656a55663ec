//! `members`, `evict` and `retire`: who is in the pool, and how a member leaves it.

use bytes::Bytes;
use clap::{Args, builder::NonEmptyStringValueParser};
use hyper::Request;
use serde_json::Value;

use super::{
    Failure,
    client::{Client, Target, encoded},
    documents::Wait,
    output::{self, text},
    status::{aligned, list},
};

/// Flags of `members`.
#[derive(Args, Debug)]
#[command(after_help = examples!(
    "  lamplight members
  lamplight members --json | jq -r 'select(.alive|not).name'"
))]
pub struct MembersArgs {
    #[command(flatten)]
    pub(super) target: Target,
}

/// Flags of `evict`.
#[derive(Args, Debug)]
#[command(after_help = examples!(
    "  lamplight evict node-3
  lamplight evict 0198c0de-0000-7000-8000-000000000003 --wait
  lamplight evict node-3 --force --wait --timeout 30s

While a member cannot be heard, nothing new becomes final. Evict it only if it is gone for good: should it come back, it
joins again as another, with what only it had. One that was heard of a moment ago is evicted with --force only. So is one
without which the members that are heard are no majority; then be sure that no other part of the pool does the like."
))]
pub struct EvictArgs {
    /// The member's name, or its id.
    #[arg(value_name = "ID_OR_NAME", value_parser = NonEmptyStringValueParser::new())]
    member: String,
    /// Also if it seems to be alive, or the members that remain and are heard are no majority.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    pub(super) target: Target,
}

/// Flags of `retire`.
#[derive(Args, Debug)]
#[command(after_help = examples!(
    "  lamplight retire --url http://127.0.0.1:7173

The node that is asked leaves its pool for good, and can be stopped then; the others go on without waiting for it. It does so
once another member holds all that it has; else it says how much is missing there. Started with --join it joins again, as
another."
))]
pub struct RetireArgs {
    #[command(flatten)]
    pub(super) target: Target,
}

/// Lists the members.
pub async fn members(args: MembersArgs) -> Result<(), Failure> {
    let pool = Client::new(&args.target).get("/v1/pool").await?.json()?;
    if args.target.json {
        let mut shown = list(&pool, "members").iter().map(|member| {
            let mut member = member.clone();
            member["holds_back"] = holds_back(&pool, &member).into();
            output::line(&member.to_string())
        });
        return shown.try_for_each(|printed| printed);
    }
    let heading = ["NAME", "ID", "STATE", "HEAD", "CLOCK", "FINALITY"].map(String::from);
    let row = |member: &Value| {
        let state = state(&pool, member);
        let (head, waits) = (text(&member["head"], "seq"), holds_back(&pool, member).unwrap_or_default());
        [text(member, "name"), text(member, "id"), state, head, text(member, "clock"), &waits].map(String::from)
    };
    let rows: Vec<_> = std::iter::once(heading).chain(list(&pool, "members").iter().map(row)).collect();
    aligned(&rows).iter().try_for_each(|line| output::line(line))
}

/// Evicts a member.
pub async fn evict(args: EvictArgs) -> Result<(), Failure> {
    let client = Client::new(&args.target).patient(args.wait.waits());
    let pool = client.get("/v1/pool").await?.json()?;
    let is_meant = |member: &&Value| [text(member, "id"), text(member, "name")].contains(&&*args.member);
    let meant: Vec<&Value> = list(&pool, "members").iter().filter(is_meant).collect();
    let id = match meant[..] {
        [member] if member["self"] == true => {
            let message = format!("{} is the node that is asked: let it retire, or ask another", args.member);
            return Err(Failure::usage(message));
        }
        [member] => text(member, "id"),
        [] => {
            let message = format!("no member has the name or id {:?}: lamplight members lists them", args.member);
            return Err(Failure { code: 3, ..Failure::new(message) });
        }
        [..] => return Err(Failure::usage(format!("several members are called {:?}: give an id", args.member))),
    };
    let parameters = [args.force.then(|| "force=true".to_string()), args.wait.parameters()];
    let query: Vec<String> = parameters.into_iter().flatten().collect();
    let path = format!("/v1/pool/members/{}?{}", encoded(id), query.join("&"));
    let answer = client.send(Request::delete(path), Bytes::new()).await?;
    told(&answer.json()?, &format!("evicted {}", args.member), args.target.json)?;
    args.wait.check(&answer)
}

/// Lets the node that is asked retire.
pub async fn retire(args: RetireArgs) -> Result<(), Failure> {
    // A node that is asked by another's id evicts it.
    if args.target.urls.len() != 1 {
        return Err(Failure::usage("one node retires at a time: name it with one --url"));
    }
    let client = Client::new(&args.target);
    let pool = client.get("/v1/pool").await?.json()?;
    let node = text(&pool, "node");
    let answer = client.send(Request::delete(format!("/v1/pool/members/{node}")), Bytes::new()).await?;
    told(&answer.json()?, &format!("retired {node}"), args.target.json)
}

fn told(receipt: &Value, what: &str, json: bool) -> Result<(), Failure> {
    if json {
        return output::line(&receipt.to_string());
    }
    output::line(&format!("{what} {}", output::op(receipt)))
}

/// How a member is, in a word.
pub fn state<'a>(pool: &'a Value, member: &Value) -> &'a str {
    match () {
        () if member["evicted"] == true => "evicted",
        () if member["self"] == true => text(pool, "state"),
        () if member["alive"] == true => "alive",
        () => "silent",
    }
}

/// How a member holds finality back, if it does.
pub fn holds_back(pool: &Value, member: &Value) -> Option<String> {
    let holder = list(pool, "held_back_by").iter().find(|holder| holder["member"] == member["id"])?;
    Some(format!("held back: {}", describe(holder)))
}

/// Why a member holds finality back, for people.
pub fn describe(holder: &Value) -> String {
    let since = match holder["since_ms"].as_u64() {
        None => "never heard of".into(),
        Some(ms) => format!("last heard of {} s ago", ms / 1000),
    };
    match text(holder, "why") {
        "eviction" => "its eviction is not answered by all yet".into(),
        _ => format!("silent, {since}"),
    }
}
