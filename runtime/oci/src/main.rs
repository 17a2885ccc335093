//! Starts one container through libcontainer and gets out of the way. A program of its own, single-threaded, because
//! libcontainer forks inside its caller and changes it; it never talks to the hub, never decides what should run, and
//! never keeps a process beside a container that systemd supervises.

mod bench;
mod cgroup;
mod cleanup;
mod cli;
mod exec;
mod executor;
mod layout;
mod log;
mod network;
mod notify;
mod process;
mod rootfs;
mod run;
mod seccomp;
mod shim;
mod spec;
mod unpack;
mod user;

use std::process::ExitCode;

use clap::Parser;

/// What we exit with when the container's own exit code is not known: the one that `docker run` uses for its own
/// failures, so that it is not mistaken for the workload's.
const EXIT_RUNTIME_FAILURE: u8 = 125;

fn main() -> ExitCode {
    log::install();
    let result = match cli::Cli::parse().command {
        cli::Command::Unpack(args) => unpack::run(&args).map(|()| 0),
        cli::Command::Run(args) => run::run(&args),
        cli::Command::Cleanup(args) => cleanup::run(&args).map(|()| 0),
        cli::Command::Exec(args) => exec::run(&args),
        cli::Command::Bench(args) => bench::run(&args).map(|()| 0),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => ExitCode::from(report(&error)),
    }
}

/// Says why we failed; gives the exit code for it.
fn report(error: &anyhow::Error) -> u8 {
    eprintln!("cairn-oci: {error:#}");
    EXIT_RUNTIME_FAILURE
}
