//! The command line.

use std::path::PathBuf;

use cairn_model::id::Digest;
use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cairn-oci", version, about = "Starts one container and gets out of the way")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Unpacks one layer into the form that overlayfs reads; verified, durable, idempotent.
    Unpack(Unpack),
    /// Creates and starts the container of a workload file.
    Run(Run),
    /// Removes whatever a run left behind, wherever it was interrupted.
    Cleanup(Cleanup),
    /// Runs a command inside the running container and exits with its code.
    Exec(Exec),
    /// Measures starts against crun and runc; prints JSON.
    #[command(hide = true)]
    Bench(Bench),
}

#[derive(Args)]
pub(crate) struct Bench {
    /// How often each is measured.
    #[arg(long, default_value_t = 50)]
    pub(crate) rounds: usize,
}

#[derive(Args)]
pub(crate) struct Unpack {
    /// The layer as it was pulled.
    #[arg(long)]
    pub(crate) blob: PathBuf,
    /// Its media type: tells the compression.
    #[arg(long)]
    pub(crate) media_type: String,
    /// Digest of the uncompressed tar, from the image's config.
    #[arg(long)]
    pub(crate) diff_id: Digest,
    /// The folder to make; nothing is done where it exists.
    #[arg(long)]
    pub(crate) into: PathBuf,
    /// Largest size of the uncompressed tar in bytes.
    #[arg(long, default_value_t = 16 << 30)]
    pub(crate) max_bytes: u64,
    /// Largest number of entries in the tar.
    #[arg(long, default_value_t = 2_000_000)]
    pub(crate) max_entries: u64,
}

#[derive(Args)]
pub(crate) struct Run {
    /// The workload file (`OciWorkload` as JSON).
    pub(crate) workload: PathBuf,
    /// Stay until the container ends and exit with its code. The default where no service manager listens
    /// (`NOTIFY_SOCKET` is unset).
    #[arg(long)]
    pub(crate) shim: bool,
    #[command(flatten)]
    pub(crate) network: NetworkTools,
}

#[derive(Args)]
pub(crate) struct Cleanup {
    /// The workload file.
    pub(crate) workload: PathBuf,
    #[command(flatten)]
    pub(crate) network: NetworkTools,
}

#[derive(Args)]
pub(crate) struct Exec {
    /// The workload file.
    pub(crate) workload: PathBuf,
    /// Kill the command after so many seconds and exit with 124.
    #[arg(long)]
    pub(crate) timeout: Option<u32>,
    /// The command, never through a shell.
    #[arg(last = true, required = true)]
    pub(crate) argv: Vec<String>,
}

/// Where netavark is and keeps its state.
#[derive(Args)]
pub(crate) struct NetworkTools {
    /// The netavark binary; looked up in Podman's folders and in PATH where absent.
    #[arg(long)]
    pub(crate) netavark: Option<PathBuf>,
    /// netavark's state, one folder for the whole node.
    #[arg(long, default_value = "/run/cairn/netavark")]
    pub(crate) netavark_state: PathBuf,
}
