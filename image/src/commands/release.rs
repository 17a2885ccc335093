//! `cairn-image release`.

use std::path::PathBuf;

use anyhow::Result;
use cairn_image::flash::disks::decimal;
use cairn_image::release::{self, Made, Request};
use cairn_model::OsVersion;
use cairn_ota::chunks::LEVEL;
use clap::Args;

/// What `cairn-image release` is told.
#[derive(Args)]
pub(crate) struct ReleaseArgs {
    /// Folder that `cairn-image build` filled.
    #[arg(long)]
    image: PathBuf,
    /// Folder for the OCI image layout; it must not be there yet.
    #[arg(long)]
    output: PathBuf,
    /// An earlier release (an OCI image layout) or the folder of its build, to make a patch from; may be repeated.
    #[arg(long, value_name = "DIR")]
    patch_from: Vec<PathBuf>,
    /// The oldest version that may install it; older ones must take another release first.
    #[arg(long, value_name = "VERSION")]
    min_version: Option<OsVersion>,
    /// Text file that says what is new.
    #[arg(long, value_name = "FILE")]
    changelog: Option<PathBuf>,
    /// Program that must end with 0 on a node before the release is kept there, with its arguments: all that follows,
    /// or up to a ';'.
    #[arg(long, value_name = "ARG", num_args = 1.., allow_hyphen_values = true, value_terminator = ";")]
    health_command: Vec<String>,
    /// Refuse an image that is not for these machines.
    #[arg(long)]
    compatible: Option<String>,
    /// zstd's level for chunks and patches: lower is quicker to make, and more to fetch.
    #[arg(long, default_value_t = LEVEL, value_parser = clap::value_parser!(i32).range(1..=22))]
    level: i32,
}

/// Makes the release and tells its sizes.
pub(crate) fn run(args: ReleaseArgs) -> Result<()> {
    let output = args.output.clone();
    let request = Request {
        image: args.image,
        output: args.output,
        patch_from: args.patch_from,
        min_version: args.min_version,
        changelog: args.changelog,
        health_command: args.health_command,
        compatible: args.compatible,
        level: args.level,
    };
    let made = release::make(&request, &mut |step| println!("release: {step}"))?;
    print!("{}", summary(&made));
    println!("written to {}; next: cairn os push {}", output.display(), output.display());
    Ok(())
}

/// What is in it, and what a node has to fetch.
fn summary(made: &Made) -> String {
    let Made { digest, release, chunks, test } = made;
    let (root, uki) = (decimal(release.root.size), decimal(release.uki.size));
    let full = release.chunks.pack.size + release.chunks.index.size;
    let mut text = format!("{} for {}\n", release.name, release.compatible);
    text += &format!("  manifest  {digest}\n");
    text += &format!("  image     root {root}, kernel {uki}\n");
    text += &format!("  in full   {}, in {chunks} chunks\n", decimal(full));
    for patch in &release.patches {
        let (size, share) = (decimal(patch.blob.size), patch.blob.size as f64 * 100.0 / full as f64);
        let memory = patch.memory.div_ceil(1 << 20);
        text +=
            &format!("  from {:<8} {size}, {share:.1} % of that; takes {memory} MiB of memory\n", patch.from);
    }
    if *test {
        text +=
            "  WARNING: this is a test image, with a root shell for whoever is near; never for the field\n";
    }
    text
}
