//! The precompiled artifact: its form on disk and who may have made it.
//!
//! The file is wasmtime's serialized ELF image followed by a seal of 40 bytes (SHA-256 of the image, then a magic
//! number). The seal makes a torn or rotten file an error instead of machine code gone wrong; the owner and the mode
//! of file and folder are what keeps other users out.

mod native;

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::geteuid;
use sha2::{Digest, Sha256};
use wasmtime::{Engine, Module, Precompiled, component::Component};

use crate::kind::Kind;

const MAGIC: [u8; 8] = *b"CAIRNWA1";
const SEAL_BYTES: usize = 32 + MAGIC.len();
/// Cure of every damaged or foreign artifact: the daemon makes it again from the verified original.
const CURE: &str = "delete it: the node compiles it again from the verified original";

/// A loaded artifact.
pub(crate) enum Artifact {
    /// See [`Kind::P1Command`].
    P1Command(Module),
    /// See [`Kind::P2Command`].
    P2Command(Component),
    /// See [`Kind::HttpProxy`].
    HttpProxy(Component),
}

/// The end of an artifact file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    digest: [u8; 32],
}

impl Seal {
    /// Over a whole image in memory.
    pub(crate) fn of(image: &[u8]) -> Self {
        Self { digest: Sha256::digest(image).into() }
    }

    /// As it stands in the file.
    pub(crate) fn to_bytes(&self) -> [u8; SEAL_BYTES] {
        let mut bytes = [0; SEAL_BYTES];
        bytes[..32].copy_from_slice(&self.digest);
        bytes[32..].copy_from_slice(&MAGIC);
        bytes
    }
}

/// Checks who made the file and that it is whole, and maps it.
pub(crate) fn load(engine: &Engine, path: &Path) -> Result<Artifact> {
    let file = open_trusted(path)?;
    check_seal(&file).with_context(|| format!("artifact {} is damaged; {CURE}", path.display()))?;
    map(engine, &file).with_context(|| format!("failed to load artifact {}", path.display()))
}

fn map(engine: &Engine, file: &File) -> Result<Artifact> {
    // The same open file that was checked, not whatever the name leads to by now.
    let name = native::name_of(file);
    match Engine::detect_precompiled_file(&name).map_err(crate::trap::plain)? {
        Some(Precompiled::Module) => {
            let module = native::module(engine, &name).context(CURE)?;
            Kind::of_module(&module)?;
            Ok(Artifact::P1Command(module))
        }
        Some(Precompiled::Component) => {
            let component = native::component(engine, &name).context(CURE)?;
            match Kind::of_component(&component, engine)? {
                Kind::HttpProxy => Ok(Artifact::HttpProxy(component)),
                Kind::P2Command | Kind::P1Command => Ok(Artifact::P2Command(component)),
            }
        }
        None => bail!("it is not made by `cairn-wasm precompile`; {CURE}"),
    }
}

fn open_trusted(path: &Path) -> Result<File> {
    let what = || format!("failed to open artifact {}", path.display());
    let file = File::options()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path)
        .with_context(what)?;
    let metadata = file.metadata().with_context(what)?;
    ensure!(metadata.is_file(), "artifact {} is not a file", path.display());
    check_owner(&metadata, false)
        .with_context(|| format!("artifact {} is not to be trusted", path.display()))?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let metadata = folder.metadata().with_context(|| format!("failed to look at {}", folder.display()))?;
    check_owner(&metadata, true)
        .with_context(|| format!("folder {} is not to be trusted", folder.display()))?;
    Ok(file)
}

fn check_owner(metadata: &std::fs::Metadata, folder: bool) -> Result<()> {
    let me = geteuid().as_raw();
    ensure!(
        metadata.uid() == 0 || metadata.uid() == me,
        "it belongs to user {}, neither root nor {me}: that user could have put any machine code there; {CURE}",
        metadata.uid()
    );
    // In a sticky folder such as /tmp others may add files, but not replace ours.
    let sticky = folder && metadata.mode() & 0o1000 != 0;
    ensure!(
        metadata.mode() & 0o022 == 0 || sticky,
        "its mode is {:03o}: others than its owner may write there; chmod go-w, then {CURE}",
        metadata.mode() & 0o7777
    );
    Ok(())
}

fn check_seal(file: &File) -> Result<()> {
    let length = file.metadata().context("failed to look at it")?.len();
    let image = length.checked_sub(SEAL_BYTES as u64).context("it is too short")?;
    let mut reader = file;
    let mut hash = Sha256::new();
    let read = io::copy(&mut reader.take(image), &mut hash).context("failed to read it")?;
    ensure!(read == image, "it is shorter than its file system says");
    let mut seal = [0; SEAL_BYTES];
    reader.read_exact(&mut seal).context("failed to read its seal")?;
    ensure!(
        seal == Seal { digest: hash.finalize().into() }.to_bytes(),
        "its content does not match its seal"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    fn sealed(image: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(image).unwrap();
        file.write_all(&Seal::of(image).to_bytes()).unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn accepts_what_it_sealed() {
        check_seal(&sealed(b"image")).unwrap();
        check_seal(&sealed(b"")).unwrap();
    }

    #[test]
    fn rejects_cut_changed_and_foreign_files() {
        let file = sealed(b"image");
        file.set_len(44).unwrap();
        assert!(check_seal(&file).unwrap_err().to_string().contains("does not match its seal"));
        let mut file = sealed(b"image");
        file.write_all(b"I").unwrap();
        file.rewind().unwrap();
        assert!(check_seal(&file).unwrap_err().to_string().contains("does not match its seal"));
        assert!(check_seal(&tempfile::tempfile().unwrap()).unwrap_err().to_string().contains("too short"));
    }
}
