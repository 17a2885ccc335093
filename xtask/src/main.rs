//! The project's own chores, behind `./x`: each is one file here. What a chore needs on the machine, it installs by
//! name and says so.

mod bench;
mod demo;
mod examples;
mod fuzz;
mod image;
mod nix;
mod process;
mod programs;
mod releases;
mod setup;
mod suite;
mod tidy;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "x", about = "Cairn's chores", disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Build everything, boot a node in QEMU, run a container and a wasm component on it, and show the status.
    Demo {
        /// End by itself instead of waiting for Enter.
        #[arg(long)]
        once: bool,
    },
    /// Run everything that CI runs, or only the named stages.
    Test {
        /// Stages to run, in order; all of them where none is named.
        #[arg(value_enum)]
        stages: Vec<suite::Stage>,
    },
    /// Run scenarios on booted nodes by name; without one those that take too long for `test`, for hours.
    Soak(suite::Soak),
    /// Fuzz everything that reads bytes from outside; what was found before is replayed first.
    Fuzz(fuzz::Fuzz),
    /// Build the programs and the appliance image.
    Image {
        /// An image for tests: with a root shell on a virtio port.
        #[arg(long)]
        test: bool,
    },
    /// Run Nix with what this machine has: the programs that are built here, and its Debian mirror.
    Nix(nix::Nix),
    /// Evaluate the NixOS modules with nixpkgs' own lib, over stubs of NixOS's options.
    NixEval(nix::Eval),
    /// Check what rustfmt and clippy don't: file lengths, first lines, crate graph, paths in the docs.
    Tidy {
        /// Write the crate graph anew instead of comparing it.
        #[arg(long)]
        bless: bool,
    },
    /// Measure, each figure beside its baseline in the same run.
    Bench {
        /// What to measure; everything where none is named.
        #[arg(value_enum)]
        what: Vec<bench::What>,
    },
}

/// The workspace's folder.
fn root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map_or(manifest.clone(), PathBuf::from)
}

/// The workspace's build folder.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

fn main() -> ExitCode {
    match run(Args::parse().chore) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `false` is a failure that was reported already.
fn run(chore: Chore) -> Result<bool> {
    match chore {
        Chore::Demo { once } => demo::run(once).map(|()| true),
        Chore::Soak(soak) => suite::soak(soak),
        Chore::Test { stages } => suite::run(&stages),
        Chore::Fuzz(fuzz) => fuzz::run(&fuzz),
        Chore::Image { test } => {
            setup::ensure(setup::Need::Image)?;
            image::build(if test { image::Flavour::Test } else { image::Flavour::Production })?;
            Ok(true)
        }
        Chore::Nix(nix) => nix::run(&nix).map(|()| true),
        Chore::NixEval(eval) => nix::eval(&eval),
        Chore::Tidy { bless } => {
            let complaints = tidy::check(bless)?;
            complaints.iter().for_each(|c| eprintln!("{c}"));
            Ok(complaints.is_empty())
        }
        Chore::Bench { what } => bench::run(&what).map(|()| true),
    }
}
