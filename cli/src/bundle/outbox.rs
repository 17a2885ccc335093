//! What nodes have put on a stick for the hub. Anybody may have put it there: names are looked at first, and what is not
//! named as a node names it is left alone.

use cairn_model::{
    NodeId,
    media::{ENROLL_REQUEST, OUTBOX},
    report::MAX_ENVELOPE_BYTES,
};
use cairn_trust::fetch::Folder;

use super::stick::Stick;

/// Most nodes of one stick.
const MAX_NODES: usize = 10_000;
/// Most reports of one node: a report a minute for a quarter of a year.
const MAX_REPORTS: usize = 150_000;
/// Most files of one stick.
const MAX_FILES: usize = 1_000_000;
/// Largest enrolment request, as it is written.
const MAX_ENROLL_BYTES: u64 = 256 << 10;

/// One envelope's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letter {
    pub(crate) path: String,
    pub(crate) is_enrolment: bool,
}

/// What is there.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Enrolments first, for a hub takes reports of nodes that it knows; then each node's reports by rising sequence.
    pub(crate) letters: Vec<Letter>,
    /// What is not read, with cause and cure.
    pub(crate) faults: Vec<String>,
}

/// Lists the outbox.
pub(crate) fn look(stick: &Stick) -> Outbox {
    let mut outbox = Outbox::default();
    let mut reports = Vec::new();
    let folders = match stick.list(OUTBOX, MAX_NODES) {
        Ok(folders) => folders.unwrap_or_default(),
        Err(error) => {
            outbox
                .faults
                .push(format!("{OUTBOX} is not read: {error}; empty it, no fleet's stick is like that"));
            return outbox;
        }
    };
    for folder in folders {
        let path = format!("{OUTBOX}/{}", folder.name);
        if folder.name.parse::<NodeId>().is_err() {
            continue;
        }
        let files = match stick.list(&path, MAX_REPORTS) {
            Ok(files) => files.unwrap_or_default(),
            Err(error) => {
                outbox.faults.push(format!(
                    "{path} is not read: {error}; remove it, the node writes its reports again at its next visit"
                ));
                continue;
            }
        };
        for file in files.into_iter().filter(|file| !file.is_folder) {
            let letter = |is_enrolment| Letter { path: format!("{path}/{}", file.name), is_enrolment };
            if file.name == ENROLL_REQUEST {
                outbox.letters.push(letter(true));
            } else if is_report(&file.name) {
                reports.push(letter(false));
            }
        }
        if reports.len() > MAX_FILES {
            outbox.faults.push(format!(
                "{OUTBOX} has more than {MAX_FILES} reports, of which the first are sent; import, export to the stick, \
                 and let the nodes write the rest"
            ));
            reports.truncate(MAX_FILES);
            break;
        }
    }
    outbox.letters.extend(reports);
    outbox
}

/// `<sequence>.jws`, padded to 20 digits.
fn is_report(name: &str) -> bool {
    name.strip_suffix(".jws").is_some_and(|number| {
        number.len() == 20 && number.bytes().all(|b| b.is_ascii_digit()) && number.parse::<u64>().is_ok()
    })
}

/// The text of one envelope, bounded.
pub(crate) fn read(folder: &Folder, letter: &Letter) -> Result<Option<String>, String> {
    let max = if letter.is_enrolment { MAX_ENROLL_BYTES } else { MAX_ENVELOPE_BYTES as u64 };
    let cure = "the node writes it again at its next visit";
    let bytes =
        folder.read(&letter.path, max).map_err(|error| format!("{}: {error}; {cure}", letter.path))?;
    let Some(bytes) = bytes else { return Ok(None) };
    // A compact JWS is three words of base64url with dots between them.
    let is_jws = |b: &u8| b.is_ascii_alphanumeric() || b"-_.".contains(b);
    match String::from_utf8(bytes) {
        Ok(text) if !text.trim_end().is_empty() && text.trim_end().bytes().all(|b| is_jws(&b)) => {
            Ok(Some(text.trim_end().to_owned()))
        }
        _ => Err(format!("{} is no envelope of a node; {cure}", letter.path)),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    const A: &str = "n-aaaa000000000000";

    #[test]
    fn only_what_a_node_names_is_read_and_no_link_is_followed() {
        let temp = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = temp.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let report = |n: u64| format!("outbox/{A}/{n:020}.jws");
        put("secret", "a.b.c");
        put(&report(10), "j.w.s\n");
        put(&report(9), "{\"no\": \"envelope\"}");
        put(&format!("outbox/{A}/enroll.jws"), "e.e.e");
        put(&format!("outbox/{A}/7.jws"), "x");
        put(&format!("outbox/{A}/.{:020}.jws.tmp", 11), "x");
        put("outbox/not-a-node/enroll.jws", "x");
        symlink(temp.path().join("secret"), temp.path().join(report(11))).unwrap();
        symlink(temp.path(), temp.path().join("outbox/n-bbbb000000000000")).unwrap();
        fs::File::create(temp.path().join(report(12))).unwrap().set_len(4 << 40).unwrap();
        let stick = Stick::open(temp.path()).unwrap();
        let outbox = look(&stick);
        let paths: Vec<_> = outbox.letters.iter().map(|letter| letter.path.clone()).collect();
        assert_eq!(paths, [format!("outbox/{A}/enroll.jws"), report(9), report(10), report(11), report(12)]);
        assert_eq!(outbox.faults.len(), 1, "{:?}", outbox.faults);
        let folder = stick.reader().unwrap();
        let read: Vec<_> = outbox.letters.iter().map(|letter| read(&folder, letter).ok().flatten()).collect();
        assert_eq!(read, [Some("e.e.e".into()), None, Some("j.w.s".into()), None, None]);
    }
}
