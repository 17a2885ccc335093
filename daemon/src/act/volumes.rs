//! Folders of the node that a replica writes to: named volumes, which outlive it, and its writable layer, which lives as
//! long as its spec.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use cairn_model::{Digest, id::AppName};

use super::trash::Trash;

/// Where a named volume of an app is.
pub fn volume_path(state_dir: &Path, app: &AppName, volume: &str) -> PathBuf {
    state_dir.join("volumes").join(app.as_str()).join(volume)
}

/// Makes sure that a volume's folder is there. A new one is writable by every user inside the container, whoever the
/// image runs as; on the node only root gets through the folders above it.
pub fn ensure_volume(state_dir: &Path, app: &AppName, volume: &str) -> io::Result<PathBuf> {
    // Names come validated from the signed app; a separator here would be a mistake of ours, not to be carried out.
    if volume.is_empty() || volume.contains('/') || volume.starts_with('.') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{volume:?} is no volume name")));
    }
    let path = volume_path(state_dir, app, volume);
    if !path.exists() {
        // A name that is there stands for a volume that is ready: made under another one, which no volume can have.
        let beside = volume_path(state_dir, app, &format!(".new-{volume}"));
        ensure_private(&state_dir.join("volumes"))?;
        fs::create_dir_all(&beside)?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o777))?;
        fs::rename(&beside, &path)?;
    }
    Ok(path)
}

/// Makes sure that the writable layer for this spec is there, and removes those of earlier specs: a replica that is
/// made anew starts from its image.
pub fn ensure_writable(state_dir: &Path, trash: &Trash, unit: &str, spec: &Digest) -> io::Result<PathBuf> {
    let folder = state_dir.join("upper").join(unit);
    let name = &spec.hex()[..16];
    ensure_private(&folder)?;
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        if entry.file_name() != name {
            trash.take(&entry.path())?;
        }
    }
    let path = folder.join(name);
    fs::create_dir_all(&path)?;
    Ok(path)
}

/// Removes the writable layers of units that are gone for good.
pub fn remove_writable(state_dir: &Path, trash: &Trash, unit: &str) -> io::Result<()> {
    trash.take(&state_dir.join("upper").join(unit))
}

/// Makes a folder, and those above it, for root alone.
pub fn ensure_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_outlives_and_a_writable_layer_follows_its_spec() {
        let dir = tempfile::tempdir().unwrap();
        let app: AppName = "shop".parse().unwrap();
        let volume = ensure_volume(dir.path(), &app, "data").unwrap();
        fs::write(volume.join("file"), "kept").unwrap();
        assert_eq!(ensure_volume(dir.path(), &app, "data").unwrap(), volume);
        assert!(volume.join("file").exists());

        let trash = Trash::start(dir.path()).unwrap();
        let writable = |spec| ensure_writable(dir.path(), &trash, "u", &Digest::of(spec)).unwrap();
        let first = writable(b"1");
        assert_eq!(writable(b"1"), first);
        let second = writable(b"2");
        assert!(second.exists() && !first.exists());
        remove_writable(dir.path(), &trash, "u").unwrap();
        assert!(!second.exists());
        remove_writable(dir.path(), &trash, "u").unwrap();
    }

    #[test]
    fn a_volume_whose_making_was_cut_off_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let app: AppName = "shop".parse().unwrap();
        // As a kill before the change of mode leaves it.
        ensure_private(&volume_path(dir.path(), &app, ".new-data")).unwrap();
        let volume = ensure_volume(dir.path(), &app, "data").unwrap();
        assert_eq!(fs::metadata(&volume).unwrap().permissions().mode() & 0o777, 0o777);
        assert!(!volume_path(dir.path(), &app, ".new-data").exists());
    }

    #[test]
    fn rejects_a_volume_name_that_leads_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let app: AppName = "shop".parse().unwrap();
        for name in ["", "..", "a/b", "../x", "."] {
            assert!(ensure_volume(dir.path(), &app, name).is_err(), "{name}");
        }
    }
}
