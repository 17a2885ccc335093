//! The command line: what can be typed, and nothing about what it leads to. Help, completions and man pages are made
//! from it.

mod os;
mod usb;
mod value;

use std::{path::PathBuf, time::Duration};

use cairn_model::{AppName, ServiceName, media::Freshness};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::{failure::EXIT_CODES, reference::Reference};

pub(crate) use os::{LocalOsVerb, OsMany, OsSet, OsStatus, OsTargets, OsVerb, RebootArg};
pub(crate) use usb::{TrustVerb, UsbExport, UsbVerb};
pub(crate) use value::{LabelEdit, parse_name};

/// Where a node's daemon listens.
const SOCKET: &str = "/run/cairn/cairnd.sock";

/// Below the short help.
const SHORT: &str = "\
First: cairn context add NAME --hub https://… --ca FILE --token-file FILE
Exit codes and environment: cairn --help";

/// Runs containers and wasm on a fleet of nodes, and keeps the nodes' OS up to date.
#[derive(Debug, Parser)]
#[command(name = "cairn", version, after_long_help = EXIT_CODES, after_help = SHORT)]
#[command(max_term_width = 110, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Use this context instead of the current one
    #[arg(long, global = true, value_name = "NAME", value_parser = parse_name)]
    pub(crate) context: Option<String>,
    #[command(subcommand)]
    pub(crate) noun: Noun,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Noun {
    /// Which hub to talk to, and as whom
    #[command(subcommand)]
    Context(ContextVerb),
    /// The members of the fleet, and those that wait to be
    #[command(subcommand, visible_alias = "nodes")]
    Node(NodeVerb),
    /// Tokens with which blank nodes enrol
    #[command(subcommand)]
    Token(TokenVerb),
    /// Tokens with which people and programs use the hub
    #[command(subcommand)]
    AccessToken(AccessTokenVerb),
    /// Apps: Compose files that run on the fleet
    #[command(subcommand, visible_alias = "apps")]
    App(AppVerb),
    /// OS releases, and which of them nodes run
    #[command(subcommand)]
    Os(OsVerb),
    /// Images, wasm components, apps and OS releases in the hub
    #[command(subcommand)]
    Artifact(ArtifactVerb),
    /// Sticks: what carries everything to nodes without a network, and their reports back
    #[command(subcommand)]
    Usb(UsbVerb),
    /// What nodes and sticks are verified by
    #[command(subcommand)]
    Trust(TrustVerb),
    /// What nodes report to have happened
    #[command(subcommand)]
    Event(EventVerb),
    /// Who changed what
    #[command(subcommand)]
    Audit(AuditVerb),
    /// The node that this runs on, without its hub
    #[command(subcommand)]
    Local(LocalVerb),
    /// Print the completions of a shell
    #[command(
        after_help = "For bash: cairn completions bash > ~/.local/share/bash-completion/completions/cairn"
    )]
    Completions {
        /// For which shell
        shell: Shell,
    },
    /// Write the man pages into a folder
    #[command(after_help = "To read them: cairn man ~/.local/share/man/man1, then man cairn-os-set")]
    Man {
        /// The folder; it is made where it is not there
        folder: PathBuf,
    },
    /// Print the version
    Version,
}

/// How to print what a command shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns, for people
    Table,
    /// More columns
    Wide,
    /// As the hub's API has it
    Json,
    /// The same in YAML
    Yaml,
    /// One name a line, for scripts
    Name,
}

#[derive(Debug, Args)]
pub(crate) struct Output {
    /// How to print it: table, wide (more columns), json (as the hub's API has it), yaml (the same), or name (one a line,
    /// for scripts)
    #[arg(short, long, value_name = "FORMAT", default_value = "table", hide_possible_values = true)]
    pub(crate) output: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ContextVerb {
    /// Remember a hub under a name; the first one becomes the current one
    Add(ContextAdd),
    /// Make a context the current one
    Use {
        /// Which one: see `cairn context ls`
        #[arg(value_parser = parse_name)]
        name: String,
    },
    /// List the contexts
    Ls(Output),
    /// Forget a context and its token
    Rm {
        /// Which one: see `cairn context ls`
        #[arg(value_parser = parse_name)]
        name: String,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("token").required(true))]
pub(crate) struct ContextAdd {
    /// Its name here
    #[arg(value_parser = parse_name)]
    pub(crate) name: String,
    /// URL of the hub: https://…, or http:// on a loopback address
    #[arg(long, value_name = "URL")]
    pub(crate) hub: String,
    /// The hub's CA certificates (PEM), as `cairn-hub init` made them; no other CA is trusted
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// A file that holds the access token; it is copied
    #[arg(long, value_name = "FILE", group = "token")]
    pub(crate) token_file: Option<PathBuf>,
    /// Read the access token from standard input
    #[arg(long, group = "token")]
    pub(crate) token_stdin: bool,
    /// Overwrite a context of this name
    #[arg(long)]
    pub(crate) replace: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeVerb {
    /// List the nodes
    Ls(NodeLs),
    /// Show all about a node
    Show {
        /// Id, unique beginning of one, or host name
        node: String,
        #[command(flatten)]
        output: Output,
    },
    /// Let nodes in that wait; compare the fingerprint with what the node shows
    Approve {
        /// Id, unique beginning of one, or host name
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
    },
    /// Change labels: KEY=VALUE sets, KEY- removes
    Label {
        /// Id, unique beginning of one, or host name
        node: String,
        /// KEY=VALUE or KEY-
        #[arg(required = true, value_name = "LABEL")]
        labels: Vec<LabelEdit>,
    },
    /// Say how long what is signed for nodes holds: a week for connected ones, longer for those that get sticks
    Freshness(NodeFreshness),
    /// Remove nodes from the fleet: their keys count no more
    Rm {
        /// Id, unique beginning of one, or host name
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
    },
}

#[derive(Debug, Args)]
#[command(
    after_help = "An export for these nodes is refused by them once it is older than that: the longer, the longer \
                        somebody can hold back what is newer. Nodes that enrolled by stick begin with 90 days."
)]
pub(crate) struct NodeFreshness {
    /// A number of days (90), `connected` (a week, renewed by the hub), or `none` (for ever)
    #[arg(value_name = "DAYS|connected|none", value_parser = value::parse_freshness)]
    pub(crate) freshness: Freshness,
    #[command(flatten)]
    pub(crate) targets: OsTargets,
    /// With `none`: such nodes take any export that is newer than what they have, however old it is
    #[arg(long)]
    pub(crate) accept_no_expiry: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct NodeLs {
    /// Only nodes with these labels: KEY=VALUE or KEY!=VALUE, joined by commas
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub(crate) selector: Option<String>,
    /// Show again whenever something changes
    #[arg(short, long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenVerb {
    /// Make an enrolment token and print it, this once
    #[command(
        after_help = "Give the token to a node as the systemd credential cairn.enroll-token, with cairn.hub \
                            and cairn.hub-ca beside it, or flash it into the image."
    )]
    Create(TokenCreate),
    /// List the enrolment tokens
    Ls(Output),
    /// Make tokens useless; nodes that came with them stay
    Rm {
        /// Its id, the first column of `ls`
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TokenCreate {
    /// Ends after this long: 30m, 24h, 7d
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = value::parse_duration)]
    pub(crate) expires: Duration,
    /// For any number of nodes instead of one
    #[arg(long)]
    pub(crate) reusable: bool,
    /// Nodes that come with it are members at once
    #[arg(long)]
    pub(crate) auto_approve: bool,
    /// A label for nodes that come with it
    #[arg(short = 'l', long = "label", value_name = "KEY=VALUE", value_parser = value::parse_label)]
    pub(crate) labels: Vec<(String, String)>,
    /// What it is for
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) description: String,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// What an access token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArg {
    /// Sees everything but secrets
    Viewer,
    /// Changes nodes, apps, artifacts and enrolment tokens
    Operator,
    /// Changes who may do what
    Admin,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AccessTokenVerb {
    /// Make an access token and print it, this once
    #[command(
        after_help = "Pipe the token into `cairn context add NAME --hub URL --ca FILE --token-stdin` where it \
                            is to be used."
    )]
    Create {
        /// Whose it is; the audit shows it
        name: String,
        /// What it allows
        #[arg(long)]
        role: RoleArg,
        /// Ends after this long: 24h, 90d
        #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = value::parse_duration)]
        expires: Duration,
        #[command(flatten)]
        output: Output,
    },
    /// List the access tokens
    Ls(Output),
    /// Make access tokens useless at once
    Rm {
        /// Its id, the first column of `ls`
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AppVerb {
    /// Deploy a Compose file
    Deploy(AppDeploy),
    /// List the apps
    Ls(Output),
    /// Show an app with every replica
    Status {
        /// Its name: see `cairn app ls`
        app: AppName,
        /// Show again whenever something changes
        #[arg(short, long)]
        watch: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Stop apps everywhere and forget them; nodes keep their volumes
    Rm {
        /// Its name: see `cairn app ls`
        #[arg(required = true, value_name = "APP")]
        apps: Vec<AppName>,
    },
    /// Print the last lines that an app wrote
    Logs(AppLogs),
}

#[derive(Debug, Args)]
pub(crate) struct AppDeploy {
    /// The Compose file
    pub(crate) file: PathBuf,
    /// The app's name; else `name:` of the file, else the name of the file's folder
    #[arg(long)]
    pub(crate) name: Option<AppName>,
    /// Wait until every replica runs and is healthy
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = value::parse_duration)]
    #[arg(requires = "wait")]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct AppLogs {
    /// Its name: see `cairn app ls`
    pub(crate) app: AppName,
    /// Of one service only
    #[arg(long)]
    pub(crate) service: Option<ServiceName>,
    /// Of one node only: id, unique beginning of one, or host name
    #[arg(long)]
    pub(crate) node: Option<String>,
    /// At most so many lines a node
    #[arg(long, short = 'n', default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) lines: u32,
    /// How long to wait for the nodes
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = value::parse_duration)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ArtifactVerb {
    /// List the artifacts
    Ls(Output),
    /// Push an OCI image layout (a folder) or a wasm module or component (a .wasm file)
    Push(ArtifactPush),
    /// Sign what is not signed yet with an operator's key, so that nodes accept it
    Sign(ArtifactSign),
}

#[derive(Debug, Args)]
pub(crate) struct ArtifactPush {
    /// A folder with an `oci-layout` file, or a .wasm file
    pub(crate) path: PathBuf,
    /// Repository and tag in the hub, as in demo/web:1
    #[arg(value_name = "NAME:TAG")]
    pub(crate) reference: Reference,
    /// Which image of a layout that holds several: its org.opencontainers.image.ref.name
    #[arg(long, value_name = "NAME")]
    pub(crate) image: Option<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ArtifactSign {
    /// The operator's private key: the artifacts targets key, a PEM file that only you can read
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// The artifacts root that you trust (N.root.json); without it, the hub's word is taken for which keys count
    #[arg(long, value_name = "FILE")]
    pub(crate) root: Option<PathBuf>,
    /// Only show what would be signed
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Sign without asking
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EventVerb {
    /// List the last events of a node, newest first
    Ls {
        /// Id, unique beginning of one, or host name
        node: String,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditVerb {
    /// List the last changes, newest first
    Ls {
        /// At most so many
        #[arg(long, short = 'n', default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum LocalVerb {
    /// Show how this node stands, as its daemon says
    Status {
        /// The daemon's socket
        #[arg(long, value_name = "FILE", default_value = SOCKET)]
        socket: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// The OS of this node
    #[command(subcommand)]
    Os(LocalOsVerb),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_in_the_readme_is_one() {
        let mut seen = 0;
        for line in include_str!("../../README.md").lines().filter(|line| line.starts_with("cairn ")) {
            let command = line.split(['#', '>']).next().unwrap_or_default();
            let words: Vec<_> = command.split_whitespace().map(|word| word.trim_matches('\'')).collect();
            if let Err(error) = Cli::try_parse_from(&words) {
                panic!("{line}: {error}");
            }
            seen += 1;
        }
        assert!(seen >= 8, "{seen}");
    }

    #[test]
    fn every_command_and_every_argument_says_what_it_is() {
        fn check(command: &clap::Command, seen: &mut usize) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
                *seen += 1;
            }
            command.get_subcommands().for_each(|below| check(below, seen));
        }
        let mut seen = 0;
        let mut command = Cli::command();
        command.build();
        check(&command, &mut seen);
        assert!(seen > 100, "{seen}");
    }

    #[test]
    fn no_secret_is_an_argument() {
        // A token on the command line is in the shell's history and in /proc for everybody.
        for line in [
            ["cairn", "context", "add", "x", "--hub", "https://h", "--token", "secret"].as_slice(),
            ["cairn", "--token", "secret", "node", "ls"].as_slice(),
        ] {
            assert!(Cli::try_parse_from(line).is_err());
        }
    }
}
