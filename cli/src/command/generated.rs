//! What is made from the definition of the command line: completions and man pages.

use std::{fs, path::Path};

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::{args::Cli, failure::Failure, screen};

pub(super) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "cairn", &mut script);
    screen::print(&String::from_utf8_lossy(&script))
}

pub(super) fn man(folder: &Path) -> Result<(), Failure> {
    let fail =
        |error: std::io::Error| Failure::failed(format!("cannot write into {}: {error}", folder.display()));
    fs::create_dir_all(folder).map_err(fail)?;
    clap_mangen::generate_to(Cli::command(), folder).map_err(fail)
}
