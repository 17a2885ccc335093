//! The build's own tools, from locked packages: unpacked into a folder and started through their own dynamic loader, so
//! that neither the host's versions nor its libraries matter.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::deb;
use crate::lock::Package;
use crate::tree::{Kind, Tree};

/// The loader of x86-64 glibc, as package libc6 brings it.
const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";

/// Where the tools' libraries lie.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Unpacked tools.
#[derive(Debug)]
pub struct Tools {
    folder: PathBuf,
    tree: Tree,
    epoch: u64,
}

impl Tools {
    /// Unpacks what the lock's tools section names.
    pub fn unpack(packages: &[Package], from: &Path, into: &Path, epoch: u64) -> Result<Self> {
        let wanted = |path: &str| {
            let folders = ["usr/lib", "usr/bin/", "usr/sbin/", "etc/"];
            folders.iter().any(|folder| path.starts_with(folder)) && !path.contains("/gconv/")
        };
        let tree = deb::unpack_all(packages, from, &wanted)?;
        write_folder(&tree, into)?;
        Ok(Self { folder: into.into(), tree, epoch })
    }

    /// A file that a tools package brings.
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        Ok(self.tree.read(path)?.to_vec())
    }

    /// Runs a tool; its environment is fixed, so that nothing of the host's reaches the result.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let at = |path: &str| self.folder.join(path);
        let output = Command::new(at(LOADER))
            .arg("--library-path")
            .arg(at(LIBRARIES))
            .arg(at(program))
            .args(arguments)
            .env_clear()
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .env("PATH", "/nonexistent")
            .env("SOURCE_DATE_EPOCH", self.epoch.to_string())
            .env("E2FSPROGS_FAKE_TIME", self.epoch.to_string())
            .env("MKE2FS_CONFIG", at("etc/mke2fs.conf"))
            .env("LD_LIBRARY_PATH", at(LIBRARIES))
            .output()
            .with_context(|| format!("failed to start {program}; are the tools in the lock?"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} failed ({}): {}", output.status, said.trim());
        Ok(())
    }
}

/// Writes a tree to disk, without owners: for tools that want files.
pub fn write_folder(tree: &Tree, folder: &Path) -> Result<()> {
    for (path, node) in tree.iter() {
        let target = folder.join(path);
        let failed = || format!("failed to write {}", target.display());
        match &node.kind {
            Kind::Folder => std::fs::create_dir_all(&target).with_context(failed)?,
            Kind::Link(link) => std::os::unix::fs::symlink(link, &target).with_context(failed)?,
            Kind::File(content) => {
                std::fs::write(&target, content.as_slice()).with_context(failed)?;
                let mode = std::fs::Permissions::from_mode(node.mode & 0o755);
                std::fs::set_permissions(&target, mode).with_context(failed)?;
            }
        }
    }
    Ok(())
}
