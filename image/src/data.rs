//! The data partition as it is flashed: ext4 with the folders that early services expect in /var.

use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context, Result};
use cairn_ota::layout;

use crate::esp::create_sparse;
use crate::root::fixed_uuid;
use crate::tools::Tools;
use crate::tree::{Node, Tree};
use crate::users::Users;

/// What /var holds before anything ran. Services with a private /tmp fail where /var/tmp is missing.
fn skeleton(users: &Users) -> Result<Tree> {
    let mut tree = Tree::default();
    let folders = [
        ("cache", 0o755),
        ("lib", 0o755),
        ("lib/cairn", 0o700),
        ("lib/private", 0o700),
        ("lib/systemd", 0o755),
        ("log", 0o755),
        ("log/private", 0o700),
        ("spool", 0o755),
        ("tmp", 0o1777),
    ];
    for (path, mode) in folders {
        tree.folder(path, mode)?;
    }
    let journal = users.group("systemd-journal")?;
    tree.insert("log/journal", Node::folder(0o2755).owned_by(0, journal))?;
    tree.link("lock", "/run/lock")?;
    tree.link("run", "/run")?;
    Ok(tree)
}

/// Writes the file system to `output`.
pub fn write(tools: &Tools, users: &Users, scratch: &Path, output: &Path, epoch: u64) -> Result<()> {
    let tar = scratch.join("data.tar");
    let file = std::fs::File::create(&tar).with_context(|| format!("failed to create {}", tar.display()))?;
    skeleton(users)?.write_tar(BufWriter::new(file), epoch)?;
    create_sparse(output, layout::DATA_SIZE)?;
    let uuid = fixed_uuid("data ext4");
    let extended = format!("hash_seed={},root_owner=0:0,nodiscard", fixed_uuid("data ext4 hash seed"));
    let (tar, output) = (tar.display().to_string(), output.display().to_string());
    let options = [
        "-q",
        "-F",
        "-t",
        "ext4",
        "-m",
        "1",
        "-b",
        "4096",
        "-L",
        "cairn-data",
        "-U",
        &uuid,
        "-E",
        &extended,
        "-d",
        &tar,
        &output,
    ];
    tools.run("usr/sbin/mke2fs", &options)
}
