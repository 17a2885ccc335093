//! The hub: turns what operators ask for into one signed bundle per node. It must never hold what nodes trust it not to
//! have: with its online keys alone it can choose among what operators signed, and nothing else.
//!
//! Long-lived tasks: the server's accept loop with a task a connection (`server`); the reconciler of the fleet, alone
//! in placing, compiling and signing for nodes (`fleet`; nudged over an mpsc channel, wakes long polls over a watch
//! channel a node); the background task (`background`). One cancellation token stops them all.

use std::{
    io::IsTerminal as _,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

mod background;
mod clock;
mod compile;
mod config;
mod error;
mod fleet;
mod http;
mod init;
mod metrics;
mod os;
mod presence;
mod registry;
mod run;
mod schedule;
mod secret;
mod selector;
mod server;
mod service;
mod sign;
mod store;
mod tls;

/// The hub of a Cairn fleet.
#[derive(Parser)]
#[command(name = "cairn-hub", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a data folder: keys, CA, repositories, database, the first admin's token
    Init {
        /// The folder to make; must not exist or be empty
        #[arg(long)]
        data: PathBuf,
        /// A host name that the hub is reached by; may be given more than once
        #[arg(long = "name")]
        names: Vec<String>,
        /// An address that the hub is reached by; may be given more than once
        #[arg(long = "address")]
        addresses: Vec<IpAddr>,
        /// Where to listen [default: 127.0.0.1:8443]
        #[arg(long)]
        listen: Option<SocketAddr>,
        /// Put the keys that belong to operators (root, artifacts targets) here instead of into the data folder
        #[arg(long)]
        operator_keys: Option<PathBuf>,
    },
    /// Serve nodes and operators until SIGTERM or SIGINT
    Serve {
        /// The data folder that init made
        #[arg(long)]
        data: PathBuf,
        /// Where to listen instead of what the settings say; port 0 takes a free one
        #[arg(long)]
        listen: Option<SocketAddr>,
    },
    /// Read the settings and say what is wrong with them
    CheckConfig {
        /// The data folder that init made
        #[arg(long)]
        data: PathBuf,
    },
    /// Make another admin's token, for whoever lost theirs; the hub may run
    AdminToken {
        /// The data folder that init made
        #[arg(long)]
        data: PathBuf,
        /// Whose it is; shown in the audit
        #[arg(long)]
        name: String,
    },
    /// Print the OpenAPI document of the operators' API
    Openapi,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Whatever is made below is for this user alone.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let filter = EnvFilter::try_from_env("CAIRN_LOG").unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match execute(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cairn-hub: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match command {
        Command::Init { data, names, addresses, listen, operator_keys } => {
            if names.is_empty() && addresses.is_empty() {
                anyhow::bail!(
                    "neither --name nor --address is given; nodes must know whom they talk to: give one"
                );
            }
            let plan = init::Plan { data, names, addresses, listen, operator_keys };
            print!("{}", runtime.block_on(init::init(&plan))?);
            Ok(())
        }
        Command::Serve { data, listen } => {
            let over = config::Fragment { listen, ..config::Fragment::default() };
            let settings = config::Settings::load(&data, over)?;
            runtime.block_on(run::run(settings))
        }
        Command::CheckConfig { data } => {
            let settings = config::Settings::load(&data, config::Fragment::default())?;
            println!(
                "the settings in {} are good; the hub would listen on {}",
                data.display(),
                settings.listen
            );
            Ok(())
        }
        Command::AdminToken { data, name } => {
            config::Settings::load(&data, config::Fragment::default())?;
            println!("{}", runtime.block_on(init::add_admin(&data, &name))?);
            Ok(())
        }
        Command::Openapi => {
            println!("{:#}", http::openapi());
            Ok(())
        }
    }
}
