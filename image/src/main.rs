//! `cairn-image`: lock, fetch, build, release and flash. Parses the command line and prints errors once.

mod commands;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use cairn_image::{apt, base, build, extra::Extra, fetch, lock::Lock};
use clap::{Args, Parser, Subcommand};

/// Makes bootable Cairn images from a lock of Debian packages, without root, chroot or (in build) network; makes
/// releases of them, and flashes them.
#[derive(Parser)]
#[command(name = "cairn-image", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Solve the package list against the machine's mirror and write every package with its SHA-256.
    Lock(LockArgs),
    /// Download what a lock names, from the machine's mirror, checked.
    Fetch(FetchArgs),
    /// Build the disk image and its parts. Uses neither network nor root.
    Build(BuildArgs),
    /// Build the disk image and its parts of a NixOS system: the flake's `image-nixos` uses it.
    Assemble(commands::assemble::AssembleArgs),
    /// Make an OS release from a build: an OCI artifact with chunks, and patches from earlier releases.
    Release(commands::release::ReleaseArgs),
    /// Print the addresses of this machine's Debian mirror, as the flake's input `debian` takes them.
    Mirror,
    /// Write an image to a disk or a file, provisioned, and verify it by reading back.
    Flash(commands::flash::FlashArgs),
}

#[derive(Args)]
struct LockArgs {
    /// Debian suite to solve for.
    #[arg(long, default_value = "trixie")]
    suite: String,
    /// Package list (TOML: root, tools, exclude); the built-in one otherwise.
    #[arg(long)]
    packages: Option<PathBuf>,
    /// Where to write the lock.
    #[arg(long)]
    output: PathBuf,
}

#[derive(Args)]
struct FetchArgs {
    /// The lock to follow.
    #[arg(long)]
    lock: PathBuf,
    /// Folder for the packages; what is there and right is kept.
    #[arg(long)]
    into: PathBuf,
}

#[derive(Args)]
struct BuildArgs {
    /// The lock to follow.
    #[arg(long)]
    lock: PathBuf,
    /// Folder that `fetch` filled; or, repeated, each package by itself, wherever it lies.
    #[arg(long, required = true)]
    packages: Vec<PathBuf>,
    /// Folder with cairnd, cairn, cairn-oci, cairn-wasm and cairn-init, stripped.
    #[arg(long)]
    binaries: PathBuf,
    /// Folder with the files to install as they lie on a target.
    #[arg(long)]
    dist: PathBuf,
    /// Version of the image, for example 0.1.0.
    #[arg(long)]
    version: String,
    /// Folder for disk.raw, root.erofs, root.verity, uki.efi, sbom.spdx.json and manifest.json.
    #[arg(long)]
    output: PathBuf,
    /// Add a root shell on a virtio port and accept units injected by SMBIOS: for tests only, never for the field.
    #[arg(long)]
    test: bool,
    /// Do nothing if the output was made from the same inputs.
    #[arg(long)]
    if_changed: bool,
    /// Build time in Unix seconds; otherwise SOURCE_DATE_EPOCH, otherwise the time in the lock.
    #[arg(long, env = "SOURCE_DATE_EPOCH")]
    epoch: Option<u64>,
    /// Which machines the image is for; a node takes only releases with its own string.
    #[arg(long, default_value = base::DEFAULT_COMPATIBLE)]
    compatible: String,
    /// Write disk.raw.zst too, for `cairn-image flash`.
    #[arg(long)]
    compress: bool,
    /// A further file, in place of what lies there otherwise, such as etc/cairn/hub-ca.pem=./ca.pem; may be repeated.
    #[arg(long, value_name = "PATH=FILE")]
    file: Vec<Extra>,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cairn-image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Lock(args) => lock(&args),
        Command::Fetch(args) => fetch(&args),
        Command::Build(args) => build(args),
        Command::Assemble(args) => commands::assemble::run(args),
        Command::Mirror => {
            println!("{}", apt::Mirror::of_this_machine()?.to_json());
            Ok(())
        }
        Command::Release(args) => commands::release::run(args),
        Command::Flash(args) => commands::flash::run(args),
    }
}

fn lock(args: &LockArgs) -> Result<()> {
    let request = apt::Request::load(args.packages.as_deref())?;
    let lock = apt::solve(&args.suite, &request).context("failed to solve the package list")?;
    std::fs::write(&args.output, lock.to_text())
        .with_context(|| format!("failed to write {}", args.output.display()))?;
    println!("locked {} packages for the root and {} for the tools", lock.root.len(), lock.tools.len());
    Ok(())
}

fn fetch(args: &FetchArgs) -> Result<()> {
    let lock = Lock::load(&args.lock)?;
    let mirror = apt::Mirror::of_this_machine()?;
    let report = fetch::fetch(&lock, &mirror, &args.into)?;
    println!(
        "{} packages were there, {} fetched ({} MB)",
        report.kept,
        report.fetched,
        report.bytes / 1_000_000
    );
    Ok(())
}

fn build(args: BuildArgs) -> Result<()> {
    let gathered = match args.packages.as_slice() {
        [folder] if folder.is_dir() => None,
        files => Some(fetch::gather(&Lock::load(&args.lock)?, files)?),
    };
    let packages = gathered.as_ref().map_or_else(|| args.packages[0].clone(), |folder| folder.path().into());
    let request = build::Request {
        lock: args.lock,
        packages,
        binaries: args.binaries,
        dist: args.dist,
        version: args.version.parse()?,
        output: args.output,
        test: args.test,
        epoch: args.epoch,
        compatible: args.compatible,
        compress: args.compress,
        extra: args.file,
    };
    if args.if_changed && build::is_current(&request)? {
        println!("{} is up to date", request.output.display());
        return Ok(());
    }
    let manifest = build::build(&request, &mut |step| println!("image: {step}"))?;
    println!("root hash {}", manifest.root_hash);
    Ok(())
}
