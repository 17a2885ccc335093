//! What is to be removed and may be large: renamed into `<state>/trash` at once, removed by a thread of its own. The
//! daemon has one thread, and a folder with a million files must not keep it from its watchdog.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use super::volumes::ensure_private;
use crate::backoff::random;

/// The folder, and the thread that empties it.
#[derive(Debug, Clone)]
pub struct Trash {
    folder: PathBuf,
    ring: mpsc::Sender<()>,
}

impl Trash {
    /// The trash below `state_dir`. What an earlier daemon left in it is removed first; the thread ends with the last
    /// handle.
    pub fn start(state_dir: &Path) -> io::Result<Self> {
        let folder = state_dir.join("trash");
        ensure_private(&folder)?;
        let (ring, rings) = mpsc::channel();
        let emptied = folder.clone();
        thread::Builder::new().name("trash".to_owned()).spawn(move || {
            empty(&emptied);
            while rings.recv().is_ok() {
                empty(&emptied);
            }
        })?;
        Ok(Self { folder, ring })
    }

    /// Puts `path` away; nothing there is nothing to do. It must be on the state's own file system.
    pub fn take(&self, path: &Path) -> io::Result<()> {
        for _ in 0..8 {
            // 52 random bits: a name that is taken is a folder that is not empty, and then another one is tried.
            let name = format!("{:013x}", random().to_bits() & ((1 << 52) - 1));
            match fs::rename(path, self.folder.join(name)) {
                Ok(()) => break,
                Err(e) if e.kind() == io::ErrorKind::NotFound && !path.exists() => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                Err(e) => return Err(e),
            }
        }
        // Where the thread is gone, the next start empties it.
        let _ = self.ring.send(());
        Ok(())
    }
}

/// What cannot be removed costs room only, and is tried again at the next start.
fn empty(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let is_folder = path.symlink_metadata().is_ok_and(|m| m.is_dir());
        let removed = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        if let Err(e) = removed {
            tracing::warn!("{} is not removed: {e}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn until(what: &str, holds: impl Fn() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
            thread::yield_now();
        }
    }

    fn is_empty(folder: &Path) -> bool {
        fs::read_dir(folder).unwrap().next().is_none()
    }

    #[test]
    fn what_is_taken_is_gone_at_once_and_removed_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join("trash/left/of/an/earlier/daemon");
        fs::create_dir_all(&left).unwrap();
        let trash = Trash::start(dir.path()).unwrap();
        for name in ["one", "two"] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.join("below")).unwrap();
            fs::write(path.join("below/file"), "x").unwrap();
            trash.take(&path).unwrap();
            assert!(!path.exists());
        }
        trash.take(&dir.path().join("never there")).unwrap();
        until("the trash is emptied", || is_empty(&dir.path().join("trash")));
    }

    #[test]
    fn a_link_in_the_trash_is_removed_and_what_it_points_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept");
        fs::create_dir(&kept).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&kept, &link).unwrap();
        let trash = Trash::start(dir.path()).unwrap();
        trash.take(&link).unwrap();
        until("the trash is emptied", || is_empty(&dir.path().join("trash")));
        assert!(kept.exists());
    }
}
