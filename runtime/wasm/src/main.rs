//! Runs one WebAssembly component or module through wasmtime, and precompiles such. It must never reach for more of
//! the node than its workload file grants, nor run machine code that it did not make itself.
//!
//! One process per workload, started by systemd. A command runs on the main thread alone. A `wasi:http` server has the
//! tokio workers, where one task per listener accepts, one per connection reads and writes, and one per request owns
//! the guest; beside them the ticker thread, which sleeps while no request is in flight. They meet in the shutdown
//! token (main → listeners), hyper's graceful shutdown (main → connections) and a oneshot (guest → connection).

mod artifact;
mod bench;
mod command;
mod engine;
mod guest;
mod kind;
mod link;
mod outgoing;
mod precompile;
mod privileges;
mod serve;
mod trap;
mod workload;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Exit code of a workload that could not be started: as container tools do it.
const EXIT_NOT_STARTED: u8 = 125;

/// Run one WebAssembly component or module.
#[derive(Parser)]
#[command(name = "cairn-wasm", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Validate a component or module, compile it for this machine, and print what it is as one line of JSON.
    Precompile {
        /// The component or module in binary form.
        input: PathBuf,
        /// Where the compiled form goes; replaced atomically.
        output: PathBuf,
        /// Also write the line of JSON to this file.
        #[arg(long)]
        kind_file: Option<PathBuf>,
        /// Refuse an input that is larger than this.
        #[arg(long, default_value_t = precompile::DEFAULT_MAX_BYTES)]
        max_bytes: u64,
    },
    /// Run the workload that a file describes, until it ends or is told to.
    Run {
        /// The file, as `cairnd` writes it.
        workload: PathBuf,
    },
    /// Measure the parts of a start, precompiled and not, and print them as JSON.
    #[command(hide = true)]
    Bench {
        /// A `wasi:http` component in binary form.
        component: PathBuf,
        /// How many times, for the median.
        #[arg(long, default_value_t = 20)]
        rounds: usize,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Precompile { input, output, kind_file, max_bytes } => {
            precompile::precompile(&input, &output, kind_file.as_deref(), max_bytes)
        }
        Command::Run { workload } => run(&workload),
        Command::Bench { component, rounds } => bench::bench(&component, rounds),
    };
    result.unwrap_or_else(|error| {
        eprintln!("cairn-wasm: {error:#}");
        ExitCode::from(EXIT_NOT_STARTED)
    })
}

fn run(workload: &std::path::Path) -> anyhow::Result<ExitCode> {
    let workload = workload::load(workload)?;
    let engine = engine::engine()?;
    match artifact::load(&engine, &workload.module)? {
        artifact::Artifact::P1Command(module) => command::run_p1(&engine, &module, workload),
        artifact::Artifact::P2Command(component) => command::run_p2(&engine, &component, workload),
        artifact::Artifact::HttpProxy(component) => serve::serve(&engine, &component, workload),
    }
}
