//! `cairnd`: parses the command line, loads the configuration, runs the daemon, returns its exit code.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use cairnd::config::Settings;
use clap::{Parser, Subcommand};

/// The node daemon of Cairn.
#[derive(Parser)]
#[command(name = "cairnd", version)]
struct Cli {
    /// Read the configuration below this folder instead of /.
    #[arg(long, global = true, default_value = "/", value_name = "DIR")]
    root: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon (the default).
    Run,
    /// Say whether the configuration is valid, and what it comes to.
    CheckConfig,
}

fn main() -> ExitCode {
    match execute(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e:#}");
            eprintln!("cairnd: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(cli: Cli) -> Result<()> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let settings =
        Settings::load(&cli.root, credentials.as_deref()).context("the configuration is refused")?;
    match cli.command.unwrap_or(Command::Run) {
        Command::CheckConfig => {
            println!("{settings:#?}");
            Ok(())
        }
        Command::Run => {
            cairnd::logging::start(&settings.log);
            // One thread is enough for a daemon that waits; files and SQLite have threads of their own.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(4)
                .build()
                .context("failed to start the runtime")?;
            runtime.block_on(cairnd::run(settings))
        }
    }
}
