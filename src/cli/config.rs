//! The configuration file: what flags and variables leave open, in TOML.
//!
//! A key is a flag that has a variable, by its name. Its value takes the place of the flag's default, so flags and variables
//! outweigh it. One file serves all commands: a command passes over what only others know.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, ArgMatches, Command};
use toml::{Table, Value};

use super::Failure;

/// The variable that names the file.
pub const VARIABLE: &str = "LAMPLIGHT_CONFIG";
/// Longest file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// How near a known name must be to be thought of (Jaro and Winkler: 1 is the same).
const NEAR: f64 = 0.7;

/// Reads the command line, with what the file says if one is named.
pub fn parse(command: Command, line: &[OsString]) -> Result<ArgMatches, Failure> {
    let command = match named(line) {
        Some(path) => with(command, &read(&path)?, &path)?,
        None => command,
    };
    Ok(command.get_matches_from(line))
}

/// The file that is named, before the command line is understood.
fn named(line: &[OsString]) -> Option<PathBuf> {
    let flag = OsStr::new("--config");
    let mut words = line.iter().skip(1).take_while(|word| *word != "--");
    let mut found = None;
    while let Some(word) = words.next() {
        if word == flag {
            found = words.next().map(PathBuf::from);
        } else if let Some(path) = word.to_str().and_then(|word| word.strip_prefix("--config=")) {
            found = Some(path.into());
        }
    }
    found.or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from)).filter(|path| !path.as_os_str().is_empty())
}

fn read(path: &Path) -> Result<Table, Failure> {
    let unusable =
        |why: &dyn std::fmt::Display| Failure::usage(format!("the configuration file {}: {why}", path.display()));
    let length = std::fs::metadata(path).map_err(|error| unusable(&super::output::words(&error)))?.len();
    if length > FILE_BYTES_MAX {
        return Err(unusable(&format!("it has more than {FILE_BYTES_MAX} bytes: is it the right file?")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| unusable(&super::output::words(&error)))?;
    text.parse().map_err(|error: toml::de::Error| unusable(&error.to_string().trim_end()))
}

/// The command, with the file's values as defaults.
fn with(mut command: Command, table: &Table, path: &Path) -> Result<Command, Failure> {
    let known: BTreeMap<String, bool> = known(&command);
    let mut given = BTreeMap::new();
    for (key, value) in table {
        let name = key.replace('_', "-");
        let fail = |why: String| Failure::usage(format!("the configuration file {}: {key}: {why}", path.display()));
        let Some(is_switch) = known.get(&name) else {
            return Err(fail(unknown(&name, known.keys())));
        };
        let values = words(value, *is_switch).map_err(fail)?;
        if given.insert(name, values).is_some() {
            return Err(fail("it is there twice, with - and with _".into()));
        }
    }
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_string()).collect();
    for name in names {
        command = command.mut_subcommand(name, |sub| {
            let args: Vec<(String, &Vec<&'static str>)> = sub
                .get_arguments()
                .filter(|arg| arg.get_env().is_some())
                .filter_map(|arg| Some((arg.get_id().to_string(), given.get(arg.get_long()?)?)))
                .collect();
            args.into_iter().fold(sub, |sub, (id, values)| {
                sub.mut_arg(id, |arg| {
                    // What is secret is shown by no help.
                    let hidden = arg.is_hide_env_values_set();
                    arg.default_values(values.iter().copied()).hide_default_value(hidden)
                })
            })
        });
    }
    Ok(command)
}

/// The flags that have a variable, and whether they are switches.
fn known(command: &Command) -> BTreeMap<String, bool> {
    let is_switch = |arg: &Arg| matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse);
    let args = command.get_subcommands().flat_map(Command::get_arguments).filter(|arg| arg.get_env().is_some());
    args.filter_map(|arg| Some((arg.get_long()?.to_string(), is_switch(arg)))).collect()
}

fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> String {
    let nearest =
        known.map(|known| (strsim::jaro_winkler(name, known), known)).max_by(|one, other| one.0.total_cmp(&other.0));
    match nearest {
        Some((near, nearest)) if near >= NEAR => format!("there is no such key; {nearest} is near"),
        _ => {
            "there is no such key. Keys are the flags of lamplight serve --help that have a variable, without --".into()
        }
    }
}

/// A value as it would stand on the command line. They live as long as the program: it is told of them once.
fn words(value: &Value, is_switch: bool) -> Result<Vec<&'static str>, String> {
    let word = |value: &Value| match value {
        Value::String(text) => Ok(text.clone().leak() as &'static str),
        Value::Integer(number) => Ok(number.to_string().leak() as &'static str),
        Value::Boolean(is_on) if is_switch => Ok(if *is_on { "true" } else { "false" }),
        _ => Err(if is_switch { "it takes true or false" } else { "it takes a string, a number or a list of them" }
            .to_string()),
    };
    match value {
        Value::Array(list) if !is_switch && !list.is_empty() => list.iter().map(word).collect(),
        Value::String(_) | Value::Integer(_) if is_switch => Err("it takes true or false".into()),
        value => Ok(vec![word(value)?]),
    }
}
