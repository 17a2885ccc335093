//! The order in which an image is made; the only module that knows all the others.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cairn_model::release::DataLayout;
use cairn_ota::{BootEntry, OsVersion, data_layout};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::base::{Identity, Selection};
use crate::disk::Content;
use crate::extra::Extra;
use crate::lock::Lock;
use crate::modules::{self, Modules};
use crate::sbom::OwnFile;
use crate::tools::Tools;
use crate::tree::Tree;
use crate::users::Users;
use crate::{base, compress, data, deb, disk, esp, fetch, initrd, root, sbom, uki, verity};

/// Programs of ours, where they lie in an image.
const PROGRAMS: [(&str, &str); 4] = [
    ("cairnd", "usr/bin/cairnd"),
    ("cairn", "usr/bin/cairn"),
    ("cairn-oci", "usr/libexec/cairn/cairn-oci"),
    ("cairn-wasm", "usr/libexec/cairn/cairn-wasm"),
];

/// The initrd's program.
const INIT: &str = "cairn-init";

/// Folders of `dist/` that an image takes; the last only if it is a test image.
const PROFILES: [(&str, bool); 3] = [("node", false), ("appliance", false), ("test", true)];

/// Where the preset lies in the tree.
const PRESET: &str = "usr/lib/systemd/system-preset/10-cairn.preset";

/// Kernel command line after the root hash: a panic must reboot, else no fallback ever happens.
const COMMAND_LINE: &str = "ro console=ttyS0 panic=3 oops=panic loglevel=6 fsck.repair=yes systemd.show_status=auto systemd.tty.term.console=dumb";

/// What to build from what.
#[derive(Debug)]
pub struct Request {
    /// The lock.
    pub lock: PathBuf,
    /// Folder with packages.
    pub packages: PathBuf,
    /// Folder with our programs.
    pub binaries: PathBuf,
    /// Folder with units and configuration.
    pub dist: PathBuf,
    /// Version of the image.
    pub version: OsVersion,
    /// Folder for the results.
    pub output: PathBuf,
    /// Whether to open the ways in that tests need.
    pub test: bool,
    /// Build time, if not the lock's.
    pub epoch: Option<u64>,
    /// Which machines it is for.
    pub compatible: String,
    /// Whether to write `disk.raw.zst` beside `disk.raw`.
    pub compress: bool,
    /// Files of the one who builds, which win over all others.
    pub extra: Vec<Extra>,
}

/// The `schema` number of [`Manifest`]; 2 names what machines the image is for.
pub const MANIFEST_SCHEMA: u32 = 2;

/// Layouts of the data partition that an image from this tree reads: it brings every change since the first.
pub const DATA_LAYOUT: DataLayout = DataLayout { min: 1, max: data_layout::CURRENT };

/// The whole disk, compressed.
pub const COMPRESSED_DISK: &str = "disk.raw.zst";

/// What was built, as `manifest.json` says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format number.
    pub schema: u32,
    /// Version of the image.
    pub version: String,
    /// Which machines it is for.
    pub compatible: String,
    /// CPU architecture in Debian's (and Go's) names.
    pub arch: String,
    /// Layouts of the data partition that it can work with.
    pub data_layout: DataLayout,
    /// Whether it is a test image.
    pub test: bool,
    /// dm-verity root hash of the root.
    pub root_hash: String,
    /// Kernel release.
    pub kernel: String,
    /// Build time in Unix seconds.
    pub epoch: u64,
    /// Hash over everything that went in.
    pub inputs: String,
    /// The files beside this one.
    pub files: Vec<Artifact>,
}

/// One file of the output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// File name.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 in hex; absent for the disk, which is the others and holes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sha256: Option<String>,
}

/// Builds everything into the output folder. `progress` hears of every step.
pub fn build(request: &Request, progress: &mut dyn FnMut(&str)) -> Result<Manifest> {
    base::check_compatible(&request.compatible)?;
    let lock = Lock::load(&request.lock)?;
    let epoch = request.epoch.unwrap_or(lock.epoch);
    let inputs = inputs_hash(request)?;
    let at = |name: &str| request.output.join(name);
    std::fs::create_dir_all(&request.output)
        .with_context(|| format!("failed to create {}", request.output.display()))?;
    let scratch = tempfile::tempdir_in(&request.output).context("failed to make a temporary folder")?;
    let _ = std::fs::remove_file(at("manifest.json"));

    progress("unpacking the tools");
    let tools = Tools::unpack(&lock.tools, &request.packages, &scratch.path().join("tools"), epoch)?;
    progress("unpacking the root");
    let composed = compose(request, &lock, &tools, epoch)?;
    let kernel_image = |root_hash: &str| {
        kernel_image(request, &composed, &tools, root_hash, epoch).context("failed to make the UKI")
    };
    let manifest = Manifest {
        schema: MANIFEST_SCHEMA,
        version: request.version.to_string(),
        compatible: request.compatible.clone(),
        arch: lock.arch,
        data_layout: DATA_LAYOUT,
        test: request.test,
        root_hash: String::new(),
        kernel: composed.kernel.clone(),
        epoch,
        inputs,
        files: Vec::new(),
    };
    let Composed { tree, users, sbom, .. } = &composed;
    let rooted =
        Rooted { tree, users, sbom, kernel_image: &kernel_image, version: &request.version, manifest };
    finish(rooted, &tools, scratch.path(), &request.output, request.compress, progress)
}

/// A root tree, whatever base it is of, and what else goes onto its disk.
pub(crate) struct Rooted<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) users: &'a Users,
    pub(crate) sbom: &'a str,
    /// The kernel image that boots the root with this hash.
    pub(crate) kernel_image: &'a dyn Fn(&str) -> Result<Vec<u8>>,
    pub(crate) version: &'a OsVersion,
    /// All but what is only known at the end: root hash and files.
    pub(crate) manifest: Manifest,
}

/// From the root tree to the disk: the same for every base.
pub(crate) fn finish(
    rooted: Rooted<'_>,
    tools: &Tools,
    scratch: &Path,
    output: &Path,
    compress: bool,
    progress: &mut dyn FnMut(&str),
) -> Result<Manifest> {
    let Rooted { tree, users, sbom, kernel_image, version, mut manifest } = rooted;
    let at = |name: &str| output.join(name);
    progress(&format!("writing the root, {} MB unpacked", tree.content_bytes() / 1_000_000));
    root::write_erofs(tree, tools, scratch, &at("root.erofs"), manifest.epoch)?;
    progress("hashing the root");
    let hashes = verity::hash_tree(open(&at("root.erofs"))?)?;
    write(&at("root.verity"), &hashes.bytes)?;
    write(&at("sbom.spdx.json"), sbom.as_bytes())?;
    progress("making initrd and kernel image");
    let kernel_image = kernel_image(&hashes.root_hash)?;
    write(&at("uki.efi"), &kernel_image)?;
    progress("laying out the disk");
    let loader = tools.read("usr/lib/systemd/boot/efi/systemd-bootx64.efi")?;
    let (esp, var) = (scratch.join("esp"), scratch.join("data"));
    esp::write(&esp, &BootEntry::good(version.clone()), &kernel_image, &loader)?;
    data::write(tools, users, scratch, &var, manifest.epoch)?;
    let content = Content {
        esp,
        root: at("root.erofs"),
        verity: at("root.verity"),
        data: var,
        root_hash: &hashes.root_hash,
        version,
    };
    disk::write(&at("disk.raw"), &content)?;
    let _ = std::fs::remove_file(at(COMPRESSED_DISK));
    if compress {
        progress("compressing the disk");
        compress::compress(&at("disk.raw"), &at(COMPRESSED_DISK))?;
    }
    manifest.root_hash = hashes.root_hash;
    manifest.files = artifacts(output, compress)?;
    let text = serde_json::to_string_pretty(&manifest).context("failed to write the manifest")? + "\n";
    write(&at("manifest.json"), text.as_bytes())?;
    Ok(manifest)
}

/// Whether the output folder holds what these inputs give.
pub fn is_current(request: &Request) -> Result<bool> {
    let Ok(text) = std::fs::read_to_string(request.output.join("manifest.json")) else { return Ok(false) };
    let Ok(manifest) = serde_json::from_str::<Manifest>(&text) else { return Ok(false) };
    let present = manifest.files.iter().all(|file| {
        std::fs::metadata(request.output.join(&file.name)).is_ok_and(|metadata| metadata.len() == file.size)
    });
    Ok(present && manifest.inputs == inputs_hash(request)?)
}

/// A root tree and what its making brought to light.
struct Composed {
    tree: Tree,
    users: Users,
    kernel: String,
    vmlinuz: Vec<u8>,
    modules: Modules,
    sbom: String,
}

fn compose(request: &Request, lock: &Lock, tools: &Tools, epoch: u64) -> Result<Composed> {
    let selection = Selection::new(request.test);
    let mut tree = deb::unpack_all(&lock.root, &request.packages, &|path| selection.keeps(path))?;
    let kernel = modules::kernel_version(&tree)?;
    let vmlinuz = tree.read(&format!("boot/vmlinuz-{kernel}"))?.to_vec();
    tree.remove("boot");
    tree.remove("var");
    let mut modules = Modules::find(&tree, &kernel);
    modules.prune(&mut tree, include_str!("../base/modules.list"))?;
    modules.index(&mut tree, &kernel, tools)?;
    let own = add_programs(&mut tree, &request.binaries)?;
    for (profile, for_tests) in PROFILES {
        if request.test || !for_tests {
            add_folder(&mut tree, &request.dist.join(profile))?;
        }
    }
    for extra in &request.extra {
        extra.add(&mut tree)?;
    }
    let mut preset = tree.text(PRESET)?;
    if request.test {
        preset.push_str(&tree.text("usr/lib/systemd/system-preset/10-cairn-test.preset")?);
    }
    let (version, compatible) = (&request.version, request.compatible.as_str());
    let identity = Identity { version, compatible, epoch, test: request.test };
    let users = base::finish(&mut tree, &identity, &preset)?;
    let sbom = sbom::document(lock, &own, &request.version, epoch)?;
    tree.file("usr/share/cairn/sbom.spdx.json", 0o644, sbom.as_bytes())?;
    Ok(Composed { tree, users, kernel, vmlinuz, modules, sbom })
}

fn add_programs(tree: &mut Tree, folder: &Path) -> Result<Vec<OwnFile>> {
    let mut own = Vec::new();
    for (name, target) in PROGRAMS {
        let content = read(&folder.join(name))?;
        own.push(OwnFile { name: name.into(), sha256: hex::encode(Sha256::digest(&content)) });
        tree.file(target, 0o755, content)?;
    }
    Ok(own)
}

/// Adds files as they lie in a folder of `dist/`; scripts keep their execute bit.
fn add_folder(tree: &mut Tree, folder: &Path) -> Result<()> {
    for (path, file) in list(folder)? {
        let metadata =
            std::fs::symlink_metadata(&file).with_context(|| format!("failed to read {}", file.display()))?;
        if metadata.is_symlink() {
            let target =
                std::fs::read_link(&file).with_context(|| format!("failed to read {}", file.display()))?;
            tree.link(&path, &target.to_string_lossy())?;
            continue;
        }
        let executable = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o100 != 0;
        tree.file(&path, if executable { 0o755 } else { 0o644 }, read(&file)?)?;
    }
    Ok(())
}

/// Every file below a folder with its relative path, sorted.
fn list(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    let mut queue = vec![(String::new(), folder.to_path_buf())];
    while let Some((prefix, folder)) = queue.pop() {
        for entry in
            std::fs::read_dir(&folder).with_context(|| format!("failed to list {}", folder.display()))?
        {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                bail!("a name in {} is not UTF-8", folder.display())
            };
            let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            if entry.file_type()?.is_dir() {
                queue.push((path, entry.path()));
            } else {
                found.push((path, entry.path()));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn kernel_image(
    request: &Request,
    composed: &Composed,
    tools: &Tools,
    root_hash: &str,
    epoch: u64,
) -> Result<Vec<u8>> {
    let init = read(&request.binaries.join(INIT))?;
    let modules = composed.modules.load_order(&composed.tree, include_str!("../base/initrd.list"))?;
    let command_line = format!("roothash={root_hash} {COMMAND_LINE}");
    // In production cairn-init refuses a command line that is not this one.
    let files = if request.test {
        Vec::new()
    } else {
        vec![("cmdline".to_owned(), command_line.clone().into_bytes())]
    };
    let initrd = initrd::build(&init, modules, files, epoch)?;
    let os_release = composed.tree.read("usr/lib/os-release")?;
    let stub = tools.read("usr/lib/systemd/boot/efi/linuxx64.efi.stub")?;
    let mut terminated = command_line.into_bytes();
    terminated.push(0);
    let sections = [
        uki::Section { name: ".osrel", content: &os_release },
        uki::Section { name: ".cmdline", content: &terminated },
        uki::Section { name: ".uname", content: composed.kernel.as_bytes() },
        uki::Section { name: ".initrd", content: &initrd },
        uki::Section { name: ".linux", content: &composed.vmlinuz },
    ];
    uki::assemble(&stub, &sections)
}

/// Hash over lock, our programs, `dist/`, options and this program itself.
fn inputs_hash(request: &Request) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut add = |name: &str, content: &[u8]| {
        hasher.update((name.len() as u64).to_le_bytes());
        hasher.update(name);
        hasher.update((content.len() as u64).to_le_bytes());
        hasher.update(content);
    };
    add("lock", &read(&request.lock)?);
    let Request { version, test, epoch, compatible, compress, .. } = request;
    add("options", format!("{version} {test} {epoch:?} {compatible} {compress}").as_bytes());
    for name in PROGRAMS.iter().map(|(name, _)| *name).chain([INIT]) {
        add(name, &read(&request.binaries.join(name))?);
    }
    for (path, file) in list(&request.dist)? {
        if !file.is_symlink() {
            add(&path, &read(&file)?);
        }
    }
    for extra in &request.extra {
        add(extra.path(), &read(extra.source())?);
    }
    let own = std::env::current_exe().context("failed to find this program")?;
    add("cairn-image", &read(&own)?);
    Ok(hex::encode(hasher.finalize()))
}

fn artifacts(folder: &Path, compressed: bool) -> Result<Vec<Artifact>> {
    let mut files = Vec::new();
    let names = ["disk.raw", "root.erofs", "root.verity", "sbom.spdx.json", "uki.efi"];
    for name in names.into_iter().chain(compressed.then_some(COMPRESSED_DISK)) {
        let mut file = open(&folder.join(name))?;
        let size = file.metadata().with_context(|| format!("failed to read {name}"))?.len();
        let sha256 = match name {
            "disk.raw" => None,
            _ => Some(fetch::hash(&mut file).with_context(|| format!("failed to read {name}"))?),
        };
        files.push(Artifact { name: name.into(), size, sha256 });
    }
    Ok(files)
}

fn open(path: &Path) -> Result<std::fs::File> {
    std::fs::File::open(path).with_context(|| format!("failed to open {}", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("failed to read {}", path.display()))
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    std::fs::write(path, content).with_context(|| format!("failed to write {}", path.display()))
}
