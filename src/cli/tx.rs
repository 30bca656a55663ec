//! `tx`: one operation over several documents, from a file.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use hyper::{Request, header};
use serde_json::Value;

use super::{
    Failure,
    client::{Client, IDEMPOTENCY_KEY, Target},
    documents::{Key, Wait, input},
    output,
};

/// Flags of `tx`.
#[derive(Args, Debug)]
#[command(after_help = examples!(
    "  lamplight tx -f move.json --wait
  echo '{\"guards\":[{\"exists\":{\"collection\":\"notes\",\"id\":\"milk\"}}],
         \"commands\":[{\"delete\":{\"collection\":\"notes\",\"id\":\"milk\"}},
                     {\"put\":{\"collection\":\"done\",\"id\":\"milk\",\"value\":{}}}]}' | lamplight tx -f -"
))]
pub struct TxArgs {
    /// The transaction, {"guards":[…],"commands":[…]}; - reads it from standard input.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    key: Key,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    pub(super) target: Target,
}

/// Writes several documents as one operation.
pub async fn tx(args: TxArgs) -> Result<(), Failure> {
    let transaction = if args.file == Path::new("-") { input("-")? } else { file(&args.file)? };
    let mut request =
        args.key.set(Request::post(args.wait.at("/v1/tx"))).header(header::CONTENT_TYPE, "application/json");
    // A key within the transaction is also its header's, or the client might choose another one for the header.
    let within = serde_json::from_slice::<Value>(&transaction).ok();
    if let (None, Some(key)) = (&args.key.key, within.as_ref().and_then(|within| within["key"].as_str())) {
        request = request.header(IDEMPOTENCY_KEY, key);
    }
    let answer = Client::new(&args.target).patient(args.wait.waits()).send(request, transaction).await?;
    output::receipt(&answer.json()?, "wrote", args.target.json)?;
    args.wait.check(&answer)
}

fn file(path: &Path) -> Result<Bytes, Failure> {
    let read = std::fs::read(path);
    Ok(read.map_err(|error| Failure::new(format!("cannot read {}: {}", path.display(), output::words(&error))))?.into())
}
