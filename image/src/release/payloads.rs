//! Root and kernel image of a version, and what is to be known of them: from a build's output, or put together from an
//! earlier release.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use cairn_model::release::{DataLayout, Payload, Verity};
use cairn_model::{Digest, OsVersion};
use cairn_ota::chunks::MAX_INDEX_BYTES;
use cairn_ota::layout::{ESP_SIZE, MIB, ROOT_SIZE, VERITY_SIZE};
use cairn_ota::verity::{self, TreeBuilder};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::layout::{Layout, ReadError};
use super::trial;
use crate::build::{MANIFEST_SCHEMA, Manifest};
use crate::uki;

/// Largest manifest of a build.
const MAX_MANIFEST: u64 = 1 << 20;

/// Largest kernel image: the ESP holds three, and the loader.
const MAX_UKI: u64 = (ESP_SIZE - 4 * MIB) / 3;

/// Room for the hash tree: the last block of its partition is the boot record.
const MAX_TREE: u64 = VERITY_SIZE - verity::BLOCK as u64;

/// Bytes that are hashed at once.
const PIECE: usize = 1 << 20;

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It is neither.
    #[error(
        "{0} is neither a folder that `cairn-image build` filled (no manifest.json) nor an OCI image layout; name one of these"
    )]
    Neither(PathBuf),
    /// It is a layout that cannot be used.
    #[error("{path} cannot be used")]
    Layout {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// A file of it is not there.
    #[error("failed to read {path}; build the image again")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It contradicts itself.
    #[error("{path} is no whole output of `cairn-image build`: {cause}; build the image again")]
    Unsound {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// It does not fit a disk.
    #[error(
        "the {what} of {path} has {size} bytes, and its place on a disk {room}; drop packages or enlarge the layout"
    )]
    TooLarge {
        /// What does not fit.
        what: &'static str,
        /// Of which.
        path: PathBuf,
        /// Its bytes.
        size: u64,
        /// The place.
        room: u64,
    },
    /// An earlier release does not come together.
    #[error("the release in {path} is damaged: {cause}; copy it again")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
}

/// What the release document says of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its version.
    pub version: OsVersion,
    /// Which machines it is for.
    pub compatible: String,
    /// CPU architecture.
    pub arch: String,
    /// What people read.
    pub name: String,
    /// Build time in Unix seconds.
    pub built: i64,
    /// Layouts of the data partition that it can work with.
    pub data_layout: DataLayout,
    /// Whether it is a test image.
    pub test: bool,
    /// The root.
    pub root: Payload,
    /// The kernel image.
    pub uki: Payload,
    /// The root's hash tree.
    pub verity: Verity,
}

/// Two files with their facts.
#[derive(Debug)]
pub struct Payloads {
    /// Where they are from.
    pub path: PathBuf,
    /// The root file system.
    pub root: PathBuf,
    /// The kernel image.
    pub uki: PathBuf,
    /// What is to be known.
    pub facts: Facts,
}

impl Payloads {
    /// From either kind of folder; what must be put together goes below `scratch`.
    ///
    /// # Errors
    /// If it is neither, or damaged.
    pub fn open(path: &Path, scratch: &Path) -> Result<Self, SourceError> {
        match Layout::is_one(path) {
            true => Self::of_layout(path, scratch),
            false => Self::of_image(path),
        }
    }

    /// From the folder of a build. Everything that its manifest says is checked: parts of two builds make a machine
    /// that does not start.
    ///
    /// # Errors
    /// If something is missing, does not belong together, or does not fit a disk.
    pub fn of_image(path: &Path) -> Result<Self, SourceError> {
        let unsound = |cause: String| SourceError::Unsound { path: path.into(), cause };
        let manifest = read_manifest(path)?;
        let version: OsVersion = manifest.version.parse().map_err(|error| unsound(format!("{error}")))?;
        let file = |name: &str| checked_file(path, &manifest, name);
        let (root, tree, uki) = (file("root.erofs")?, file("root.verity")?, file("uki.efi")?);
        let fits = |what, size, room| match size > room {
            true => Err(SourceError::TooLarge { what, path: path.into(), size, room }),
            false => Ok(()),
        };
        fits("root", root.1.size, ROOT_SIZE)?;
        fits("hash tree", tree.1.size, MAX_TREE)?;
        fits("kernel image", uki.1.size, MAX_UKI)?;
        let verity = check_verity(&root.0, &tree.0, &manifest.root_hash).map_err(unsound)?;
        let kernel = fs::read(&uki.0).map_err(|source| SourceError::Read { path: uki.0.clone(), source })?;
        let name = check_kernel(&kernel, &manifest).map_err(unsound)?;
        let facts = Facts {
            version,
            compatible: manifest.compatible,
            arch: manifest.arch,
            name,
            built: i64::try_from(manifest.epoch).map_err(|_| unsound("its time is out of range".into()))?,
            data_layout: manifest.data_layout,
            test: manifest.test,
            root: root.1,
            uki: uki.1,
            verity,
        };
        Ok(Self { path: path.into(), root: root.0, uki: uki.0, facts })
    }

    /// From an earlier release.
    fn of_layout(path: &Path, scratch: &Path) -> Result<Self, SourceError> {
        let unread = |source| SourceError::Layout { path: path.into(), source };
        let layout = Layout::open(path).map_err(unread)?;
        let release = &layout.release;
        let facts = Facts {
            version: release.version.clone(),
            compatible: release.compatible.clone(),
            arch: release.arch.clone(),
            name: release.name.clone(),
            built: release.built,
            data_layout: release.data_layout,
            test: false,
            root: release.root.clone(),
            uki: release.uki.clone(),
            verity: release.verity.clone(),
        };
        let index = layout.read(&release.chunks.index, MAX_INDEX_BYTES as u64).map_err(unread)?;
        let pack = layout.file(&release.chunks.pack).map_err(unread)?;
        let name = |what: &str| scratch.join(format!("{}.{what}", facts.verity.root_hash));
        let (root, uki) = (name("root"), name("uki"));
        trial::unpack(&index, &pack, &facts, &root, &uki)
            .map_err(|cause| SourceError::Damaged { path: path.into(), cause })?;
        Ok(Self { path: path.into(), root, uki, facts })
    }
}

fn read_manifest(folder: &Path) -> Result<Manifest, SourceError> {
    #[derive(Deserialize)]
    struct Head {
        schema: u32,
    }
    let path = folder.join("manifest.json");
    let mut text = Vec::new();
    match File::open(&path).and_then(|file| file.take(MAX_MANIFEST).read_to_end(&mut text)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(SourceError::Neither(folder.into()));
        }
        Err(source) => return Err(SourceError::Read { path, source }),
        Ok(_) => {}
    }
    let unsound = |cause| SourceError::Unsound { path: folder.into(), cause };
    let head: Head =
        serde_json::from_slice(&text).map_err(|error| unsound(format!("manifest.json: {error}")))?;
    if head.schema != MANIFEST_SCHEMA {
        let other = "its manifest is of another version of cairn-image";
        return Err(unsound(other.into()));
    }
    serde_json::from_slice(&text).map_err(|error| unsound(format!("manifest.json: {error}")))
}

/// A file whose size and hash are what the manifest says.
fn checked_file(folder: &Path, manifest: &Manifest, name: &str) -> Result<(PathBuf, Payload), SourceError> {
    let path = folder.join(name);
    let unsound = |cause| SourceError::Unsound { path: folder.into(), cause };
    let Some(said) = manifest.files.iter().find(|file| file.name == name) else {
        return Err(unsound(format!("its manifest does not name {name}")));
    };
    let payload = hash_file(&path).map_err(|source| SourceError::Read { path: path.clone(), source })?;
    if said.size != payload.size || said.sha256.as_deref() != Some(payload.digest.hex()) {
        return Err(unsound(format!("{name} is not the file that its manifest names")));
    }
    Ok((path, payload))
}

/// Digest and size of a file.
pub(crate) fn hash_file(path: &Path) -> io::Result<Payload> {
    let (mut file, mut hasher, mut size) = (File::open(path)?, Sha256::new(), 0);
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(Payload { digest: Digest::from_sha256(&hasher.finalize().into()), size }),
            count => {
                hasher.update(&piece[..count]);
                size += count as u64;
            }
        }
    }
}

/// Computes the tree again, as a node will, with the parameters in its superblock.
fn check_verity(root: &Path, tree: &Path, root_hash: &str) -> Result<Verity, String> {
    let built = fs::read(tree).map_err(|error| format!("root.verity: {error}"))?;
    let cut = || "root.verity is cut short".to_owned();
    let uuid: [u8; 16] = built.get(16..32).and_then(|uuid| uuid.try_into().ok()).ok_or_else(cut)?;
    let length = built.get(80..82).map(|size| usize::from(u16::from_le_bytes([size[0], size[1]])));
    let salt = length.and_then(|length| built.get(88..88 + length)).ok_or_else(cut)?;
    let mut again = TreeBuilder::new(salt, uuid);
    let mut file = File::open(root).map_err(|error| format!("root.erofs: {error}"))?;
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece).map_err(|error| format!("root.erofs: {error}"))? {
            0 => break,
            count => again.push(&piece[..count]),
        }
    }
    let again = again.finish().map_err(|error| format!("root.erofs: {error}"))?;
    if again.root_hash != root_hash || again.bytes != built {
        return Err("root.verity is not the hash tree of root.erofs".into());
    }
    Ok(Verity { root_hash: again.root_hash, salt: hex::encode(salt), uuid: hex::encode(uuid) })
}

/// The kernel image must start this very root, and say the same of itself. Returns what people read.
fn check_kernel(kernel: &[u8], manifest: &Manifest) -> Result<String, String> {
    let section = |name: &str| {
        let content = uki::section(kernel, name).map_err(|error| format!("uki.efi: {error}"))?;
        let text = content.and_then(|bytes| std::str::from_utf8(bytes).ok());
        text.ok_or_else(|| format!("uki.efi has no {name}"))
    };
    let wanted = format!("roothash={}", manifest.root_hash);
    let command_line = section(".cmdline")?.trim_end_matches('\0');
    if !command_line.split(' ').any(|argument| argument == wanted) {
        return Err("uki.efi starts another root than root.erofs".into());
    }
    let os_release = section(".osrel")?;
    let value = |key: &str| {
        let line = os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"').to_owned()).unwrap_or_default()
    };
    if value("IMAGE_VERSION") != manifest.version || value("CAIRN_COMPATIBLE") != manifest.compatible {
        return Err("uki.efi is of another version, or for other machines, than the manifest says".into());
    }
    Ok(value("PRETTY_NAME"))
}
