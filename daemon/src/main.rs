//! `cairnd`: parses the command line, loads the configuration, runs the daemon, returns its exit code.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use cairnd::{
    config::Settings,
    media::{self, Device, FolderLamp, Signal},
    os::confirm::{self, Boot},
};
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
    /// Show on the console how the node stands, line by line.
    Console {
        /// The agent's socket.
        #[arg(long, default_value = "/run/cairn/cairnd.sock")]
        socket: PathBuf,
    },
    /// The OS of this node.
    #[command(subcommand)]
    Os(OsCommand),
    /// USB sticks; for the units that mount them.
    #[command(subcommand)]
    Media(MediaCommand),
}

#[derive(Subcommand)]
enum MediaCommand {
    /// Mount a stick so that nothing on it changes.
    Mount {
        /// Its block device, such as sdb1.
        device: Device,
        /// Where the mount points are.
        #[arg(long, default_value = "/run/cairn/media")]
        folder: PathBuf,
    },
    /// Tell the agent that a stick is mounted; nothing is wrong where the agent is not up.
    Attach {
        /// Its block device.
        device: Device,
        /// The agent's socket.
        #[arg(long, default_value = "/run/cairn/cairnd.sock")]
        socket: PathBuf,
    },
    /// Set the lamp that the configuration names (media.led).
    Led {
        /// off, busy or ready.
        signal: Signal,
    },
}

#[derive(Subcommand)]
enum OsCommand {
    /// Wait until the OS that runs is kept; fail where it is given up (for boot-complete.target).
    Confirm,
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
    let command = cli.command.unwrap_or(Command::Run);
    if let Command::Console { socket } = &command {
        // A program without the daemon's rights and credentials: it cannot read the daemon's configuration.
        return cairnd::console::run(socket, &mut std::io::stdout());
    }
    match &command {
        Command::Media(MediaCommand::Mount { device, folder }) => return Ok(media::mount(device, folder)?),
        Command::Media(MediaCommand::Attach { device, socket }) => return attach(device, socket),
        _ => {}
    }
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let loaded = Settings::load(&cli.root, credentials.as_deref()).context("the configuration is refused");
    if let Command::Os(OsCommand::Confirm) = command {
        // A configuration that the tried OS refuses is a reason to go back, and none on an ordinary boot.
        return confirm(&cli.root, loaded);
    }
    let settings = loaded?;
    match command {
        Command::CheckConfig => {
            println!("{settings:#?}");
            Ok(())
        }
        Command::Media(MediaCommand::Led { signal }) => {
            let Some(name) = &settings.media.led else { return Ok(()) };
            FolderLamp::named(name).set(signal).with_context(|| format!("failed to set the lamp {name}"))
        }
        Command::Run | Command::Console { .. } | Command::Os(_) | Command::Media(_) => {
            cairnd::logging::start(&settings.log);
            // One thread is enough for a daemon that waits; files and SQLite have threads of their own.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(4)
                .build()
                .context("failed to start the runtime")?;
            let ended = runtime.block_on(cairnd::run(settings));
            // A read that the kernel does not let go of, on a stick that dies, would hold up the end.
            runtime.shutdown_background();
            ended
        }
    }
}

fn attach(device: &Device, socket: &Path) -> Result<()> {
    if !media::attach(socket, device).map_err(anyhow::Error::msg)? {
        println!("cairnd is not up; it looks for {device} when it starts");
    }
    Ok(())
}

fn confirm(root: &Path, loaded: Result<Settings>) -> Result<()> {
    // What fails here restarts the machine: on an ordinary boot nothing may, a defect of this very look included.
    let boot = std::panic::catch_unwind(|| confirm::this_boot(root));
    if let Boot::Ordinary(why) = boot.unwrap_or(Boot::Ordinary("the look at it failed")) {
        println!("nothing is being tried: {why}");
        return Ok(());
    }
    let socket = loaded?.run_dir.join("cairnd.sock");
    confirm::wait_for_verdict(&socket).map_err(|reason| anyhow::anyhow!("the OS is given up: {reason}"))
}
