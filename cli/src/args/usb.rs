//! `cairn usb` and `cairn trust`: what can be typed.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Output, value};

#[derive(Debug, Subcommand)]
pub(crate) enum UsbVerb {
    /// Write all that some nodes need onto a stick, and read it back
    Export(UsbExport),
    /// Verify a stick as nodes do, without a hub: signatures, every byte, the receipt
    #[command(
        after_help = "Ends with 4 where something is wrong. On a machine without a context, bring the roots: cairn \
                            trust roots DIR writes them."
    )]
    Verify {
        /// The folder that the stick is mounted on, or its block device, which root need not mount
        #[arg(value_name = "DIR|DEVICE")]
        place: PathBuf,
        /// The folder that `cairn trust roots` wrote; without it, only that the stick is whole can be said
        #[arg(long, value_name = "DIR")]
        roots: Option<PathBuf>,
    },
    /// Send to the hub what nodes have put on a stick: reports, and requests to be enrolled
    #[command(
        after_help = "Nothing is removed from the stick, and nothing is stored twice: it may be imported again. A node \
                            writes its reports until an export tells it that the hub has them."
    )]
    Import {
        /// The folder that the stick is mounted on, or its block device, which root need not mount
        #[arg(value_name = "DIR|DEVICE")]
        place: PathBuf,
        /// Where the first new report of a node comes after a gap, give up what is missing: only when no stick and no node
        /// has it any more, as after the hub was restored from an older backup
        #[arg(long)]
        accept_gap: bool,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
#[command(
    after_help = "Run again, it writes what is missing or damaged and goes on where it was cut off. What an earlier \
                        export left and nobody needs goes; what nodes wrote, and files of your own, stay."
)]
pub(crate) struct UsbExport {
    /// The folder that the stick is mounted on, or its block device, which root need not mount
    #[arg(value_name = "DIR|DEVICE")]
    pub(crate) place: PathBuf,
    /// For this node: id, unique beginning of one, or host name (may be repeated)
    #[arg(long = "node", value_name = "NODE", group = "what")]
    pub(crate) nodes: Vec<String>,
    /// For nodes with these labels: KEY=VALUE or KEY!=VALUE, joined by commas
    #[arg(short = 'l', long, value_name = "SELECTOR", value_parser = value::parse_selector, group = "what")]
    pub(crate) selector: Option<String>,
    /// For nodes whose label `site` is this
    #[arg(long, value_name = "SITE", value_parser = value::parse_site, group = "what")]
    pub(crate) site: Option<String>,
    /// For nobody yet: blank nodes write their requests to be enrolled to it
    #[arg(long, group = "what", conflicts_with_all = ["nodes", "selector", "site", "since"])]
    pub(crate) blank: bool,
    /// Leave out what the stick with this receipt has brought (a copy of its cairn-bundle.json)
    #[arg(long, value_name = "RECEIPT")]
    pub(crate) since: Option<PathBuf>,
    /// Take a stick of another fleet: what that fleet's export wrote is removed
    #[arg(long)]
    pub(crate) replace: bool,
    /// Only show what would be written
    #[arg(long, conflicts_with = "blank")]
    pub(crate) dry_run: bool,
    /// Write without asking
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TrustVerb {
    /// Show the fingerprint of the fleet's roots, and write them into a folder for `cairn usb verify`
    #[command(
        after_help = "The roots are public. The fingerprint is the one that nodes show: compare the two."
    )]
    Roots {
        /// Where to write director.root.json and artifacts.root.json; it is made where it is not there
        #[arg(value_name = "DIR")]
        folder: Option<PathBuf>,
    },
}
