//! `./x bench`: figures, each with its baseline in the same run.

use std::process::Command;

use anyhow::Result;
use clap::ValueEnum;

use crate::{examples, process, programs, setup};

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// Container start to end, against crun and runc on the same bundle.
    Oci,
    /// A component from precompiled file to first answer, against compiling it first.
    Wasm,
}

/// Measures `what`, or everything, and prints a table of each.
pub(crate) fn run(what: &[What]) -> Result<()> {
    setup::ensure(setup::Need::Bench)?;
    programs::build()?;
    examples::build()?;
    let what = if what.is_empty() { What::value_variants() } else { what };
    for what in what {
        let mut command = Command::new("python3");
        match what {
            What::Oci => command.arg("benches/oci.py"),
            What::Wasm => command.arg("benches/wasm.py"),
        };
        print!("{}", process::output(command.arg(programs::dir()).arg(examples::dir()))?);
    }
    Ok(())
}
