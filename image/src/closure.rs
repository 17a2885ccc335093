//! An image on the NixOS base: the closure of a system in place of packages, and its own kernel and initrd. From the root
//! tree on it is made as every other, with the same tools.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use cairn_ota::OsVersion;
use cairn_ota::layout::{ESP_SIZE, MIB};
use sha2::{Digest, Sha256};

use crate::base::{self, Identity};
use crate::build::{self, Manifest, Rooted};
use crate::lock::Lock;
use crate::tools::Tools;
use crate::tree::{Node, Tree};
use crate::users::Users;
use crate::{sbom, uki};

/// What every store path begins with, on the machine that runs them.
const STORE: &str = "/nix/store/";

/// Largest list of store paths that is read: a desktop has some 3,000.
const MAX_LIST: u64 = MIB;

/// Largest closure that is put into memory. What fits a slot has a third of it, for it is compressed there.
const MAX_CLOSURE: u64 = 1024 * MIB;

/// Largest kernel image, initrd and all: the ESP takes the running one, the new one, and one that is being written, beside
/// the boot loader.
const MAX_KERNEL_IMAGE: u64 = (ESP_SIZE - 4 * MIB) / 3;

/// How a closure is made smaller, for whoever reads that it is too large.
const CURE: &str = "take packages out of the configuration that imports nixosModules.appliance: \
                    `nix path-info -rsS` of system.build.toplevel tells the large ones";

/// Mount points, and what must be there before anything is mounted. Nothing can be made later: systemd stops where /usr is
/// empty, and NixOS makes /bin, /home and /srv where they are missing.
const FOLDERS: [(&str, u32); 16] = [
    ("bin", 0o755),
    ("boot", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("nix", 0o755),
    ("nix/store", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("var", 0o755),
];

/// What to build from what.
#[derive(Debug)]
pub struct Request {
    /// The lock whose tools are used.
    pub lock: PathBuf,
    /// Folder with their packages.
    pub packages: PathBuf,
    /// File with the store paths.
    pub closure: PathBuf,
    /// Folder that they are read from: `/nix/store`, or that of another root.
    pub store: PathBuf,
    /// The system's kernel.
    pub kernel: PathBuf,
    /// The system's initrd.
    pub initrd: PathBuf,
    /// Kernel command line after the root hash.
    pub command_line: String,
    /// Version of the image.
    pub version: OsVersion,
    /// Which machines it is for.
    pub compatible: String,
    /// Folder for the results.
    pub output: PathBuf,
}

/// Builds everything into the output folder. `progress` hears of every step.
pub fn build(request: &Request, progress: &mut dyn FnMut(&str)) -> Result<Manifest> {
    base::check_compatible(&request.compatible)?;
    ensure!(
        !request.command_line.contains(['\n', '\0']),
        "the command line has more than one line; write it as one"
    );
    let lock = Lock::load(&request.lock)?;
    let epoch = lock.epoch;
    let names = store_paths(&request.closure)?;
    std::fs::create_dir_all(&request.output)
        .with_context(|| format!("failed to create {}", request.output.display()))?;
    let scratch = tempfile::tempdir_in(&request.output).context("failed to make a temporary folder")?;
    progress("unpacking the tools");
    let tools = Tools::unpack(&lock.tools, &request.packages, &scratch.path().join("tools"), epoch)?;
    progress(&format!("reading the closure, {} store paths", names.len()));
    let tree = root_of(&request.store, &names, MAX_CLOSURE)?;
    let Request { version, compatible, .. } = request;
    let identity = Identity { version, compatible, epoch, test: false };
    let os_release = identity.os_release()?.replace("ID_LIKE=debian", "ID_LIKE=nixos");
    let kernel = read(&request.kernel)?;
    let release = uname(&kernel).context("the kernel does not say its release; is it a bzImage?")?;
    let initrd = read(&request.initrd)?;
    let stub = tools.read("usr/lib/systemd/boot/efi/linuxx64.efi.stub")?;
    let kernel_image = |root_hash: &str| {
        let command_line = format!("roothash={root_hash} {}\0", request.command_line);
        let sections = [
            uki::Section { name: ".osrel", content: os_release.as_bytes() },
            uki::Section { name: ".cmdline", content: command_line.as_bytes() },
            uki::Section { name: ".uname", content: release.as_bytes() },
            uki::Section { name: ".initrd", content: &initrd },
            uki::Section { name: ".linux", content: &kernel },
        ];
        let image = uki::assemble(&stub, &sections)?;
        ensure_fits_esp(image.len() as u64, initrd.len() as u64)?;
        Ok(image)
    };
    let manifest = Manifest {
        schema: build::MANIFEST_SCHEMA,
        version: version.to_string(),
        compatible: compatible.clone(),
        arch: lock.arch,
        data_layout: build::DATA_LAYOUT,
        test: false,
        root_hash: String::new(),
        kernel: release.clone(),
        epoch,
        inputs: inputs(&names, request),
        files: Vec::new(),
    };
    let sbom = sbom::closure(&names, version, epoch)?;
    let users = Users::of_nixos();
    let rooted =
        Rooted { tree: &tree, users: &users, sbom: &sbom, kernel_image: &kernel_image, version, manifest };
    build::finish(rooted, &tools, scratch.path(), &request.output, false, progress).with_context(|| {
        format!("the closure does not become an image of {compatible}; if it is too large, {CURE}")
    })
}

/// A node that could take no update must not be made.
fn ensure_fits_esp(image: u64, initrd: u64) -> Result<()> {
    ensure!(
        image <= MAX_KERNEL_IMAGE,
        "the kernel image has {} MiB, {} of them the initrd, and the ESP takes three of {} MiB; shorten \
         boot.initrd.availableKernelModules, or set boot.initrd.compressor = \"xz\"",
        image.div_ceil(MIB),
        initrd.div_ceil(MIB),
        MAX_KERNEL_IMAGE / MIB
    );
    Ok(())
}

/// The names of the store paths that a file lists, sorted.
fn store_paths(file: &Path) -> Result<Vec<String>> {
    let size = std::fs::metadata(file).with_context(|| format!("failed to read {}", file.display()))?.len();
    ensure!(
        size <= MAX_LIST,
        "{} is larger than any list of store paths; name closureInfo's store-paths",
        file.display()
    );
    let text = std::fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?;
    let mut names = Vec::new();
    for line in text.lines() {
        let name = line
            .strip_prefix(STORE)
            .filter(|name| !name.is_empty() && !name.contains('/') && !name.starts_with('.'));
        names.push(
            name.with_context(|| format!("{} lists '{line}', which is no store path", file.display()))?
                .to_owned(),
        );
    }
    names.sort();
    names.dedup();
    ensure!(!names.is_empty(), "{} lists no store path; name closureInfo's store-paths", file.display());
    Ok(names)
}

/// The root tree: mount points and the store.
fn root_of(store: &Path, names: &[String], most: u64) -> Result<Tree> {
    let mut tree = Tree::default();
    for (path, mode) in FOLDERS {
        tree.folder(path, mode)?;
    }
    let mut left = most;
    let mut queue: Vec<(String, PathBuf)> =
        names.iter().map(|name| (format!("nix/store/{name}"), store.join(name))).collect();
    while let Some((path, source)) = queue.pop() {
        let failed = || format!("failed to read {}", source.display());
        let metadata = std::fs::symlink_metadata(&source).with_context(failed)?;
        if metadata.is_symlink() {
            let target = std::fs::read_link(&source).with_context(failed)?;
            let Some(target) = target.to_str() else {
                bail!("{} points to what is not UTF-8", source.display())
            };
            tree.insert(&path, Node::link(target))?;
        } else if metadata.is_dir() {
            tree.folder(&path, 0o555)?;
            for entry in std::fs::read_dir(&source).with_context(failed)? {
                let entry = entry.with_context(failed)?;
                let Ok(name) = entry.file_name().into_string() else {
                    bail!("a name in {} is not UTF-8", source.display())
                };
                queue.push((format!("{path}/{name}"), entry.path()));
            }
        } else {
            left = left.checked_sub(metadata.len()).with_context(|| {
                format!(
                    "the closure has more than {} MiB, and a slot takes a third of that; {CURE}",
                    most / MIB
                )
            })?;
            let mode = if metadata.permissions().mode() & 0o100 != 0 { 0o555 } else { 0o444 };
            tree.file(&path, mode, read(&source)?)?;
        }
    }
    Ok(tree)
}

/// The release that a bzImage names: the offset of the text is in its header (Documentation/arch/x86/boot.rst).
fn uname(kernel: &[u8]) -> Option<String> {
    ensure_magic(kernel)?;
    let offset = usize::from(u16::from_le_bytes(kernel.get(0x20e..0x210)?.try_into().ok()?)) + 0x200;
    let text = kernel.get(offset..)?;
    let text = text.get(..text.iter().take(256).position(|byte| *byte == 0)?)?;
    let release = std::str::from_utf8(text).ok()?.split(' ').next()?;
    (!release.is_empty()).then(|| release.to_owned())
}

fn ensure_magic(kernel: &[u8]) -> Option<()> {
    (kernel.get(0x202..0x206)? == b"HdrS").then_some(())
}

/// A store path's name stands for its content.
fn inputs(names: &[String], request: &Request) -> String {
    let Request { version, compatible, command_line, .. } = request;
    let mut hasher = Sha256::new();
    for name in names {
        hasher.update(name);
        hasher.update("\n");
    }
    hasher.update(format!("{version} {compatible} {command_line} {}", env!("CARGO_PKG_VERSION")));
    hex::encode(hasher.finalize())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("failed to read {}", path.display()))
}

#[cfg(test)]
mod tests;
