//! `cairn os`: what can be typed.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};

use super::{Output, value};

#[derive(Debug, Subcommand)]
pub(crate) enum OsVerb {
    /// Push an OS release: the folder that `cairn-image release` made
    Push {
        /// The folder; it has a file `oci-layout`
        layout: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// List the releases in the hub, newest first
    Ls(Output),
    /// Show all about a release: changelog, patches, health command
    Show {
        /// Version, digest, or unique beginning of a digest
        release: String,
        #[command(flatten)]
        output: Output,
    },
    /// Make a release the OS that nodes shall run
    Set(OsSet),
    /// Forget which OS nodes shall run: what they run now stays
    Unset(OsMany),
    /// Restart nodes into the OS that stands written there, whatever their reboot policy
    Apply(OsMany),
    /// Show which OS nodes run, and how far their updates are
    Status(OsStatus),
}

/// Which nodes are meant. All must be said by name: nothing typed is never everything.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct OsTargets {
    /// This node: id, unique beginning of one, or host name (may be repeated)
    #[arg(long = "node", value_name = "NODE")]
    pub(crate) nodes: Vec<String>,
    /// Nodes with these labels: KEY=VALUE or KEY!=VALUE, joined by commas
    #[arg(short = 'l', long, value_name = "SELECTOR", value_parser = value::parse_selector)]
    pub(crate) selector: Option<String>,
    /// Every member of the fleet
    #[arg(long, conflicts_with_all = ["nodes", "selector"])]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct OsMany {
    #[command(flatten)]
    pub(crate) targets: OsTargets,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// When nodes restart into a new OS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RebootArg {
    /// As soon as it is written and verified
    AtOnce,
    /// On `cairn os apply`, or when the node restarts for another reason
    Manual,
    /// Within the next window of --window
    Window,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Nodes that join later are not included. See what comes of it: cairn os status --watch"
)]
pub(crate) struct OsSet {
    /// Version, digest, or unique beginning of a digest
    pub(crate) release: String,
    #[command(flatten)]
    pub(crate) targets: OsTargets,
    /// It is older than what some of the nodes run, and that is meant
    #[arg(long)]
    pub(crate) allow_downgrade: bool,
    /// Try it again where it failed before
    #[arg(long)]
    pub(crate) retry: bool,
    /// When the nodes restart into it [default: at-once, or window where --window is given]
    #[arg(long, value_name = "WHEN")]
    pub(crate) reboot: Option<RebootArg>,
    /// A maintenance window: '02:00-04:00', 'Mon..Fri 22:00-04:00', 'Sat,Sun 00:00-06:00' (may be repeated)
    #[arg(long = "window", value_name = "WINDOW", value_parser = value::parse_window)]
    pub(crate) windows: Vec<String>,
    /// The time zone of the windows, as in Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE", value_parser = value::parse_time_zone, requires = "windows")]
    pub(crate) time_zone: Option<String>,
    /// How long a node may take until all is well again; else it goes back
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = value::parse_duration)]
    pub(crate) health_deadline: Duration,
    /// Keep the new OS though it does not reach the hub: for nodes without a network
    #[arg(long)]
    pub(crate) no_hub_check: bool,
    /// Only show what each node would do; ends with 4 where one would refuse
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct OsStatus {
    /// Only this node: id, unique beginning of one, or host name (may be repeated)
    #[arg(long = "node", value_name = "NODE")]
    pub(crate) nodes: Vec<String>,
    /// Only nodes with these labels: KEY=VALUE or KEY!=VALUE, joined by commas
    #[arg(short = 'l', long, value_name = "SELECTOR", value_parser = value::parse_selector)]
    pub(crate) selector: Option<String>,
    /// Show again whenever something changes
    #[arg(short, long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `cairn local os`.
#[derive(Debug, Subcommand)]
pub(crate) enum LocalOsVerb {
    /// Restart this node into the OS that stands written, whatever its reboot policy
    Apply {
        /// The daemon's socket
        #[arg(long, value_name = "FILE", default_value = super::SOCKET)]
        socket: PathBuf,
    },
}
