//! `cairn-image assemble`.

use std::path::PathBuf;

use anyhow::Result;
use cairn_image::closure::{self, Request};
use cairn_model::OsVersion;
use clap::Args;

/// What `cairn-image assemble` is told.
#[derive(Args)]
pub(crate) struct AssembleArgs {
    /// The lock whose tools make the file systems and bring the boot loader.
    #[arg(long)]
    lock: PathBuf,
    /// Folder with the packages of those tools.
    #[arg(long)]
    packages: PathBuf,
    /// File that names the store paths of the system's closure, one a line.
    #[arg(long, value_name = "FILE")]
    closure: PathBuf,
    /// Folder that holds the store paths, where that is not the store of this machine.
    #[arg(long, value_name = "FOLDER", default_value = "/nix/store")]
    store: PathBuf,
    /// The system's kernel.
    #[arg(long)]
    kernel: PathBuf,
    /// The system's initrd.
    #[arg(long)]
    initrd: PathBuf,
    /// Kernel command line; the root hash comes before it.
    #[arg(long)]
    command_line: String,
    /// Version of the image, for example 0.1.0.
    #[arg(long)]
    version: OsVersion,
    /// Which machines the image is for; a node takes only releases with its own string.
    #[arg(long)]
    compatible: String,
    /// Folder for disk.raw, root.erofs, root.verity, uki.efi, sbom.spdx.json and manifest.json.
    #[arg(long)]
    output: PathBuf,
}

/// Builds, and tells the root hash.
pub(crate) fn run(args: AssembleArgs) -> Result<()> {
    let request = Request {
        lock: args.lock,
        packages: args.packages,
        closure: args.closure,
        store: args.store,
        kernel: args.kernel,
        initrd: args.initrd,
        command_line: args.command_line,
        version: args.version,
        compatible: args.compatible,
        output: args.output,
    };
    let manifest = closure::build(&request, &mut |step| println!("image: {step}"))?;
    println!("root hash {}", manifest.root_hash);
    Ok(())
}
