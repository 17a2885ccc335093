//! `cairn trust`: the public roots that nodes pin, and sticks are verified by.

use std::{fs, io::Write as _, path::Path};

use cairn_model::api::TrustRoots;
use cairn_trust::keys::roots_fingerprint;

use crate::{
    args::TrustVerb,
    bundle::verify::{ARTIFACTS_ROOT, DIRECTOR_ROOT},
    client::Client,
    failure::Failure,
    screen,
};

pub(super) async fn run(client: &Client, verb: TrustVerb) -> Result<(), Failure> {
    let TrustVerb::Roots { folder } = verb;
    let roots: TrustRoots = client.get(&["trust", "roots"], &[]).await?;
    let (director, artifacts) = (roots.director.get().as_bytes(), roots.artifacts.get().as_bytes());
    if let Some(folder) = &folder {
        fs::create_dir_all(folder).map_err(|error| {
            Failure::failed(format!("cannot make {}: {error}", folder.display()))
                .cure("name a folder that you may write to")
        })?;
        write(&folder.join(DIRECTOR_ROOT), director)?;
        write(&folder.join(ARTIFACTS_ROOT), artifacts)?;
    }
    screen::print(&format!("{}\n", roots_fingerprint(director, artifacts)))?;
    match &folder {
        Some(folder) => screen::note(&format!(
            "written to {0}; to verify a stick anywhere: cairn usb verify STICK --roots {0}",
            folder.display()
        )),
        None => screen::note("nodes show the same fingerprint; write the roots with `cairn trust roots DIR`"),
    }
    Ok(())
}

/// Whole or not at all; anybody may read it.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    let fail = |error: std::io::Error| Failure::failed(format!("cannot write {}: {error}", path.display()));
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(fail)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(fail)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644)).map_err(fail)?;
    file.persist(path).map_err(|error| fail(error.error)).map(drop)
}
