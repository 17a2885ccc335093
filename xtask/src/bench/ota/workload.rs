//! What is measured on: the appliance's image, and two later ones that are built in the same way from the same packages,
//! with files changed by these rules.
//!
//! - A *rebuilt* program or library (ELF) has 64 new bytes at its first third, as where code has grown, and 8 new bytes in
//!   every fourth page of 4 KiB, as where it names addresses that have moved. Any other rebuilt file has a line more.
//! - The point release: all files of `libssl3t64` are rebuilt, as for a security fix.
//! - The month's updates: every 33rd file (3 %) below `usr/` is rebuilt, in the order of their paths, kernel modules and
//!   Cairn's own left out (no new kernel), and a file of 1,220,000 bytes that do not compress is new. That is the share of
//!   the image (1.5 % of what it is as a whole, compressed) that 4 MB are of the one that RAUC's quoted figures are of.
//!
//! What the version changes is changed in both: os-release, and the root hash inside the kernel image.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::dir;
use crate::{image, process, programs};

/// The package that a point release has anew.
const PACKAGE: &str = "libssl3t64";

/// One file in so many is rebuilt within a month.
const EVERY: usize = 33;

/// Bytes that a month brings, and that everybody has to fetch.
pub(super) const NEW_BYTES: usize = 1_220_000;

/// A page of a program.
const PAGE: usize = 4096;

/// A later image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Later {
    /// One package is new.
    Point,
    /// What a month changes.
    Month,
}

impl Later {
    /// For people.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Point => "a point release (libssl3t64 is new)",
            Self::Month => "a month's updates (3 % of the files changed, 1.2 MB new)",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Point => "point",
            Self::Month => "month",
        }
    }

    const fn version(self) -> &'static str {
        match self {
            Self::Point => "0.1.1",
            Self::Month => "0.2.0",
        }
    }
}

/// The image that nodes run.
pub(super) fn base() -> Result<PathBuf> {
    build("base", image::VERSION, &crate::root().join("dist"))
}

/// The image that they shall run.
pub(super) fn image(later: Later, base: &Path) -> Result<PathBuf> {
    let dist = dir().join(format!("dist-{}", later.name()));
    if dist.exists() {
        fs::remove_dir_all(&dist)?;
    }
    process::output(Command::new("cp").arg("-a").arg(crate::root().join("dist")).arg(&dist))?;
    let mounted = Mounted::new(&base.join("root.erofs"))?;
    let present = files_below(&mounted.0, "usr")?;
    let changed: Vec<&String> = match later {
        Later::Point => {
            let packaged = files_of(PACKAGE)?;
            present.iter().filter(|path| packaged.contains(path)).collect()
        }
        Later::Month => present.iter().filter(|path| !is_left_out(path)).step_by(EVERY).collect(),
    };
    ensure!(!changed.is_empty(), "the image has none of the files that were to be changed");
    let mut bytes = 0;
    for path in &changed {
        let (from, to) = (mounted.0.join(path), dist.join("node").join(path));
        let content = fs::read(&from).with_context(|| format!("failed to read {}", from.display()))?;
        bytes += content.len();
        fs::create_dir_all(to.parent().context("a file is in a folder")?)?;
        fs::write(&to, rebuilt(&content, &mut Noise::of(path)))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(fs::metadata(&from)?.permissions().mode()))?;
    }
    if later == Later::Month {
        let folder = dist.join("node/usr/share/new");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("data"), Noise::of("new").bytes(NEW_BYTES))?;
    }
    eprintln!(
        "  {}: {} files, {:.1} MB of programs and data",
        later.title(),
        changed.len(),
        bytes as f64 / 1e6
    );
    drop(mounted);
    build(later.name(), later.version(), &dist)
}

/// The release of it, with a patch from `base`.
pub(super) fn release(later: Later, base: &Path) -> Result<PathBuf> {
    let (built, layout) = (dir().join(later.name()), dir().join(format!("{}.release", later.name())));
    let manifests = [fs::read(base.join("manifest.json"))?, fs::read(built.join("manifest.json"))?].concat();
    let stamp = dir().join(format!("{}.inputs", later.name()));
    if layout.exists() && fs::read(&stamp).ok().as_ref() == Some(&manifests) {
        return Ok(layout);
    }
    fs::remove_dir_all(&layout).ok();
    let mut command = image::tool();
    command
        .arg("release")
        .arg("--image")
        .arg(&built)
        .arg("--patch-from")
        .arg(base)
        .arg("--output")
        .arg(&layout);
    process::step(&format!("making release {}", later.version()), "bench-ota-release", &mut command)?;
    fs::write(stamp, manifests)?;
    Ok(layout)
}

fn build(name: &str, version: &str, dist: &Path) -> Result<PathBuf> {
    let (lock, output) = (image::packages()?, dir().join(name));
    let mut command = image::tool();
    command.args(["build", "--if-changed", "--version", version, "--dist"]).arg(dist).arg("--lock").arg(lock);
    command.arg("--packages").arg(image::debs()).arg("--binaries").arg(programs::dir());
    process::step(
        &format!("assembling OS {version}"),
        "bench-ota-image",
        command.arg("--output").arg(&output),
    )?;
    Ok(output)
}

/// A root, mounted to be read.
struct Mounted(PathBuf);

impl Mounted {
    fn new(root: &Path) -> Result<Self> {
        let point = dir().join("root");
        fs::create_dir_all(&point)?;
        process::output(Command::new("mount").args(["-t", "erofs", "-o", "loop,ro"]).arg(root).arg(&point))
            .context("failed to mount a root: are you root, and are there erofs and loop devices?")?;
        Ok(Self(point))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = process::output(Command::new("umount").arg(&self.0)) {
            eprintln!("  {error:#}");
        }
    }
}

/// Regular files below a folder of a root, as paths in that root, sorted.
fn files_below(root: &Path, folder: &str) -> Result<Vec<String>> {
    let mut command = Command::new("find");
    command.arg(root.join(folder)).args([
        "-xdev",
        "-type",
        "f",
        "-size",
        "+0",
        "-printf",
        &format!("{folder}/%P\\n"),
    ]);
    let mut files: Vec<String> = process::output(&mut command)?.lines().map(str::to_owned).collect();
    files.sort();
    Ok(files)
}

/// Paths of a package among those of the lock.
fn files_of(package: &str) -> Result<Vec<String>> {
    let prefix = format!("{package}_");
    let mut debs: Vec<PathBuf> = fs::read_dir(image::debs())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)))
        .collect();
    debs.sort();
    let deb = debs.last().with_context(|| format!("there is no package {package}"))?;
    let listed = process::output(Command::new("dpkg-deb").arg("--contents").arg(deb))?;
    // Each line ends in the path; a link's ends in ` -> target`, and is no file.
    Ok(listed.lines().filter_map(|line| line.split_once(" ./").map(|(_, path)| path.to_owned())).collect())
}

/// The kernel stays, and Cairn's own files too.
fn is_left_out(path: &str) -> bool {
    path.starts_with("usr/lib/modules/") || path.contains("cairn") || path.ends_with("os-release")
}

/// The file as it could come out of another build.
fn rebuilt(old: &[u8], noise: &mut Noise) -> Vec<u8> {
    if !old.starts_with(b"\x7fELF") {
        return [old, b"\n# rebuilt\n"].concat();
    }
    let mut new = old.to_vec();
    for page in new.chunks_mut(PAGE).skip(1).step_by(4) {
        let at = page.len() / 2;
        let end = page.len().min(at + 8);
        let fresh = noise.bytes(end - at);
        page[at..end].copy_from_slice(&fresh);
    }
    let third = new.len() / 3 / 16 * 16;
    new.splice(third..third, noise.bytes(64));
    new
}

/// Bytes that do not compress and are the same on every machine (xorshift64).
struct Noise(u64);

impl Noise {
    /// A stream of its own for each name (FNV-1a).
    fn of(name: &str) -> Self {
        let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self(name.bytes().fold(0xcbf2_9ce4_8422_2325, fold) | 1)
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.extend_from_slice(&self.0.to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebuilt_program_grows_at_a_third_and_changes_in_every_fourth_page() {
        let mut old = vec![0; 12 * PAGE];
        old[..4].copy_from_slice(b"\x7fELF");
        let new = rebuilt(&old, &mut Noise::of("a"));
        assert_eq!(new.len(), old.len() + 64);
        assert_eq!(new[..PAGE], old[..PAGE]);
        assert_ne!(new[PAGE..2 * PAGE], old[PAGE..2 * PAGE]);
        assert_eq!(new[2 * PAGE..4 * PAGE], old[2 * PAGE..4 * PAGE]);
        assert_ne!(new[4 * PAGE..4 * PAGE + 64], [0; 64]);
        assert_eq!(new, rebuilt(&old, &mut Noise::of("a")), "it is the same every time");
    }

    #[test]
    fn any_other_file_has_a_line_more() {
        assert_eq!(rebuilt(b"[Unit]", &mut Noise::of("a")), b"[Unit]\n# rebuilt\n");
    }
}
