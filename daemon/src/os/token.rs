//! The enrolment token that `cairn-image flash` put on the ESP has done its work once the node is a member: what is left
//! of it is overwritten and removed. Only a head start over a thief, since a token is used once or expires at the hub.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::Path,
};

/// Below the ESP.
const TOKEN: &str = "loader/credentials/cairn.enroll-token.cred";

/// Removes it; nothing there is nothing to do, and a failure is only told.
pub(super) fn forget(esp: &Path) {
    match remove(&esp.join(TOKEN)) {
        Ok(()) => tracing::info!("the enrolment token is removed from the ESP"),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => tracing::warn!("the enrolment token stays on the ESP: {e}"),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let size = usize::try_from(file.metadata()?.len()).unwrap_or(0).min(1 << 20);
    file.write_all(&vec![0; size])?;
    file.sync_all()?;
    fs::remove_file(path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_goes_and_everything_else_stays() {
        let esp = tempfile::tempdir().unwrap();
        forget(esp.path());
        let folder = esp.path().join("loader/credentials");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cairn.enroll-token.cred"), "s3cret").unwrap();
        fs::write(folder.join("cairn.hub.cred"), "https://hub").unwrap();
        // A second name shows what became of the bytes.
        fs::hard_link(folder.join("cairn.enroll-token.cred"), esp.path().join("second")).unwrap();
        forget(esp.path());
        assert!(!folder.join("cairn.enroll-token.cred").exists());
        assert!(folder.join("cairn.hub.cred").exists());
        assert_eq!(fs::read(esp.path().join("second")).unwrap(), [0; 6]);
    }
}
