//! `completions` and `man`: what shells and `man` know of the program, made from its own description.

use std::{io, path::PathBuf};

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Failure, output};

/// Flags of `completions`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  lamplight completions bash >/etc/bash_completion.d/lamplight
  lamplight completions zsh >\"${fpath[1]}/_lamplight\"
  lamplight completions fish >~/.config/fish/completions/lamplight.fish")]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Flags of `man`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  lamplight man | man -l -
  lamplight man --output /usr/local/share/man/man1")]
pub struct ManArgs {
    /// Write the pages of all commands to this directory; without it that of the program goes to standard output.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Prints a shell's completions.
pub fn completions(args: CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "lamplight", &mut script);
    output::line(String::from_utf8_lossy(&script).trim_end())
}

/// Writes man pages.
pub fn man(args: ManArgs) -> Result<(), Failure> {
    let command = Cli::command();
    let Some(dir) = args.output else {
        let mut page = Vec::new();
        let made = clap_mangen::Man::new(command).render(&mut page);
        made.map_err(|error| Failure::new(format!("no page can be made: {error}")))?;
        return output::line(String::from_utf8_lossy(&page).trim_end());
    };
    let failed =
        |error: io::Error| Failure::new(format!("cannot write to {}: {}", dir.display(), output::words(&error)));
    std::fs::create_dir_all(&dir).map_err(failed)?;
    clap_mangen::generate_to(command, &dir).map_err(failed)
}
