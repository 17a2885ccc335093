//! Makes an OS release, an OCI artifact, from what `build` left: the payloads as chunks, and patches from earlier
//! releases. Everything that travels is tried before the release is there: put together again from the chunks and from
//! each patch, by the same code as a node's, and compared. The same inputs give the same bytes.

pub mod layout;
pub mod payloads;
mod trial;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use cairn_model::oci::{MEDIA_TYPE_RELEASE_INDEX, MEDIA_TYPE_RELEASE_PACK, MEDIA_TYPE_RELEASE_PATCH};
use cairn_model::release::{Chunks, MAX_PATCHES, Patch, Payload, Release, SCHEMA};
use cairn_model::{Digest, DocumentError, OsVersion};
use cairn_ota::{chunks, patch};

use layout::{Layer, LayoutError, Writer};
use payloads::{Payloads, SourceError};

/// Largest changelog.
const MAX_CHANGELOG: u64 = 64 << 10;

/// Why there is no release.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// An image or an earlier release cannot be used.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It cannot be written.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// There is something already.
    #[error("{0} exists; remove it, or name another folder: a release is never changed")]
    Exists(PathBuf),
    /// It is for other machines than was said.
    #[error(
        "the image is for '{found}' and not for '{wanted}'; build it with `cairn-image build --compatible {wanted}`"
    )]
    Compatible {
        /// What the image says.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// A patch would be for other machines.
    #[error(
        "{path} is for '{found}', and this release for '{wanted}': no node could use such a patch; leave it out"
    )]
    PatchCompatible {
        /// What was named.
        path: PathBuf,
        /// What it is for.
        found: String,
        /// What the release is for.
        wanted: String,
    },
    /// A patch from itself.
    #[error(
        "{path} is version {version}, as this release is; build it with another --version, or leave the patch out"
    )]
    SameVersion {
        /// What was named.
        path: PathBuf,
        /// Its version.
        version: OsVersion,
    },
    /// Two patches from one version.
    #[error("version {0} is named twice by --patch-from; leave one out")]
    Twice(OsVersion),
    /// More patches than a release can have.
    #[error("there are over {MAX_PATCHES} --patch-from; name the releases that the fleet runs")]
    TooManyPatches,
    /// A patch that no node could take.
    #[error(
        "version {from} is older than --min-version {min}: its patch could not be installed; leave it out, or lower \
         --min-version"
    )]
    PatchTooOld {
        /// What it starts from.
        from: OsVersion,
        /// The oldest that may install.
        min: OsVersion,
    },
    /// A release that nobody could install after it.
    #[error(
        "--min-version {min} is newer than the release, {version}; name the oldest version that may install it"
    )]
    MinVersion {
        /// What was asked for.
        min: OsVersion,
        /// The release.
        version: OsVersion,
    },
    /// A text cannot be used.
    #[error("failed to use the changelog {path}; give a text of at most 64 KiB")]
    Changelog {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Chunks cannot be made.
    #[error("failed to cut the image into chunks")]
    Pack(#[source] chunks::PackError),
    /// A patch cannot be made.
    #[error("failed to make the patch from {from}")]
    Patch {
        /// What it starts from.
        from: OsVersion,
        /// Why.
        #[source]
        source: patch::PatchError,
    },
    /// What was made is not what it should be; a fault of this program or of the machine.
    #[error(
        "the release would not be the image again: {0}; nothing was written: try again on another machine"
    )]
    Trial(String),
    /// The document is refused by the reader that all others use.
    #[error("the release document is refused")]
    Document(#[source] DocumentError),
}

/// What to make from what.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// A folder that `cairn-image build` filled.
    pub image: PathBuf,
    /// Where the OCI image layout goes.
    pub output: PathBuf,
    /// Earlier images or releases.
    pub patch_from: Vec<PathBuf>,
    /// The oldest version that may install it.
    pub min_version: Option<OsVersion>,
    /// What is new.
    pub changelog: Option<PathBuf>,
    /// What must end with 0 on a node that tries it.
    pub health_command: Vec<String>,
    /// What the image must be for.
    pub compatible: Option<String>,
    /// Level of zstd.
    pub level: i32,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Digest of its manifest, by which everybody names it.
    pub digest: Digest,
    /// The document.
    pub release: Release,
    /// How many chunks it has.
    pub chunks: usize,
    /// Whether its image is one for tests, with ways in.
    pub test: bool,
}

/// Makes a release. `progress` hears of every step.
///
/// # Errors
/// If an input cannot be used, or if what was made is not the image again.
pub fn make(request: &Request, progress: &mut dyn FnMut(&str)) -> Result<Made, ReleaseError> {
    if request.output.exists() {
        return Err(ReleaseError::Exists(request.output.clone()));
    }
    let mut writer = Writer::begin(&request.output)?;
    progress("checking the image");
    let new = Payloads::of_image(&request.image)?;
    check_image(request, &new)?;
    let changelog = request.changelog.as_deref().map(read_changelog).transpose()?.unwrap_or_default();
    let mut earlier = Vec::new();
    for path in &request.patch_from {
        progress(&format!("reading {}", path.display()));
        earlier.push(Payloads::open(path, writer.scratch())?);
    }
    // The order of the arguments changes nothing.
    earlier.sort_by(|a, b| a.facts.version.cmp(&b.facts.version));
    check_earlier(request, &new, &earlier)?;
    progress("cutting into chunks");
    let (chunks, count) = write_chunks(&mut writer, &new, request.level)?;
    let mut patches = Vec::new();
    for old in &earlier {
        progress(&format!("making the patch from {}", old.facts.version));
        patches.push(write_patch(&mut writer, old, &new, request.level)?);
    }
    let facts = new.facts;
    let release = Release {
        schema: SCHEMA,
        version: facts.version,
        compatible: facts.compatible,
        arch: facts.arch,
        min_version: request.min_version.clone(),
        changelog,
        name: facts.name,
        built: facts.built,
        data_layout: facts.data_layout,
        root: facts.root,
        uki: facts.uki,
        verity: facts.verity,
        chunks,
        patches,
        health_command: request.health_command.clone(),
    };
    let digest = writer.finish(&release, &layers(&release))?;
    Ok(Made { digest, release, chunks: count, test: facts.test })
}

fn check_image(request: &Request, new: &Payloads) -> Result<(), ReleaseError> {
    let (found, version) = (&new.facts.compatible, &new.facts.version);
    if let Some(wanted) = request.compatible.as_ref().filter(|wanted| *wanted != found) {
        return Err(ReleaseError::Compatible { found: found.clone(), wanted: wanted.clone() });
    }
    if let Some(min) = request.min_version.as_ref().filter(|min| *min > version) {
        return Err(ReleaseError::MinVersion { min: min.clone(), version: version.clone() });
    }
    if request.patch_from.len() > MAX_PATCHES {
        return Err(ReleaseError::TooManyPatches);
    }
    Ok(())
}

/// `earlier` is sorted by version.
fn check_earlier(request: &Request, new: &Payloads, earlier: &[Payloads]) -> Result<(), ReleaseError> {
    let wanted = &new.facts.compatible;
    for old in earlier {
        let (path, found, version) = (old.path.clone(), &old.facts.compatible, &old.facts.version);
        if found != wanted {
            let (found, wanted) = (found.clone(), wanted.clone());
            return Err(ReleaseError::PatchCompatible { path, found, wanted });
        }
        if *version == new.facts.version {
            return Err(ReleaseError::SameVersion { path, version: version.clone() });
        }
        if let Some(min) = request.min_version.as_ref().filter(|min| *min > version) {
            return Err(ReleaseError::PatchTooOld { from: version.clone(), min: min.clone() });
        }
    }
    match earlier.windows(2).find(|pair| pair[0].facts.version == pair[1].facts.version) {
        Some(pair) => Err(ReleaseError::Twice(pair[0].facts.version.clone())),
        None => Ok(()),
    }
}

fn read_changelog(path: &Path) -> Result<String, ReleaseError> {
    let read = || {
        let mut text = String::new();
        let mut file = io::Read::take(File::open(path)?, MAX_CHANGELOG + 1);
        io::Read::read_to_string(&mut file, &mut text)?;
        match text.len() as u64 > MAX_CHANGELOG {
            true => Err(io::Error::new(io::ErrorKind::InvalidData, "it has more")),
            false => Ok(text),
        }
    };
    read().map_err(|source| ReleaseError::Changelog { path: path.into(), source })
}

/// Writes index and pack, and puts the image together again from them.
fn write_chunks(writer: &mut Writer, new: &Payloads, level: i32) -> Result<(Chunks, usize), ReleaseError> {
    let mut packed = None;
    let pack = writer.stream(|out| {
        let index = chunks::pack(&new.root, &new.uki, level, out).map_err(ReleaseError::Pack)?;
        packed = Some(index);
        Ok::<_, ReleaseError>(())
    })?;
    let Some(packed) = packed else { return Err(ReleaseError::Trial("nothing was packed".into())) };
    let index = writer.bytes(&packed.to_bytes())?;
    let (stored, pack_file) = (writer.read(&index)?, writer.open(&pack)?);
    trial::chunks(&stored, &pack_file, &new.facts)?;
    Ok((Chunks { index, pack }, packed.chunks().len()))
}

/// Writes a patch, and makes the image from it.
fn write_patch(
    writer: &mut Writer,
    old: &Payloads,
    new: &Payloads,
    level: i32,
) -> Result<Patch, ReleaseError> {
    let from = &old.facts.version;
    let mut memory = 0;
    let blob = writer.stream(|out| {
        let made = patch::make(&old.root, &old.uki, &new.root, &new.uki, level, out)
            .map_err(|source| ReleaseError::Patch { from: from.clone(), source })?;
        memory = made.memory;
        Ok::<_, ReleaseError>(())
    })?;
    trial::patch(writer.open(&blob)?, old, &new.facts)?;
    Ok(Patch {
        from: from.clone(),
        from_root_hash: old.facts.verity.root_hash.clone(),
        blob,
        from_uki: old.facts.uki.digest.clone(),
        memory,
    })
}

/// All that the manifest must name, so that registries keep it. Two patches may be the same bytes, and a layer is named
/// once.
fn layers(release: &Release) -> Vec<Layer> {
    let layer = |media_type, payload: &Payload| Layer { media_type, payload: payload.clone() };
    let mut layers = vec![
        layer(MEDIA_TYPE_RELEASE_INDEX, &release.chunks.index),
        layer(MEDIA_TYPE_RELEASE_PACK, &release.chunks.pack),
    ];
    for patch in &release.patches {
        if layers.iter().all(|known| known.payload.digest != patch.blob.digest) {
            layers.push(layer(MEDIA_TYPE_RELEASE_PATCH, &patch.blob));
        }
    }
    layers
}
