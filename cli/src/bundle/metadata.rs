//! Signed metadata on a stick: where it may lie, in which order it is written, and what of an earlier export goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use cairn_model::{
    NodeId,
    media::{ARTIFACTS, DIRECTOR, ENROLL, grant_path},
};

use super::stick::Stick;
use crate::failure::Failure;

/// The file that makes a repository's newer metadata count.
const TIMESTAMP: &str = "timestamp.json";
/// Most files of one repository: some roots, and a handful of others.
const MAX_FILES: usize = 10_000;

/// Folder of a node's director repository.
pub(crate) fn director(node: &NodeId) -> String {
    format!("{DIRECTOR}/{node}")
}

/// Refuses a name that no export has: a hub does not choose what else lies on the stick.
pub(crate) fn check(files: &BTreeMap<String, String>, nodes: &BTreeSet<NodeId>) -> Result<(), Failure> {
    let strange = files.keys().find(|path| !is_expected(path, nodes));
    strange.map_or(Ok(()), |path| {
        Err(Failure::refused(format!(
            "the hub wants a file on the stick that belongs to no export: {path:?}"
        ))
        .cure("use a cairn of the hub's version; if it is, find out who answers at that address"))
    })
}

fn is_expected(path: &str, nodes: &BTreeSet<NodeId>) -> bool {
    let is_file = |name: &str| {
        name.ends_with(".json")
            && !name.starts_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.%".contains(&b))
    };
    let is_node = |name: &str| name.parse::<NodeId>().is_ok_and(|node| nodes.contains(&node));
    if let Some(name) = path.strip_prefix(ARTIFACTS).and_then(|rest| rest.strip_prefix('/')) {
        return is_file(name);
    }
    if let Some(rest) = path.strip_prefix(DIRECTOR).and_then(|rest| rest.strip_prefix('/')) {
        return rest.split_once('/').is_some_and(|(node, name)| {
            is_node(node) && is_file(name.strip_prefix("targets/").unwrap_or(name))
        });
    }
    path.strip_prefix(ENROLL)
        .and_then(|rest| rest.strip_prefix('/')?.strip_suffix(".json"))
        .is_some_and(is_node)
}

/// The steps in which files are written, so that a stick which is pulled out in between has old metadata or new, and
/// never a pin on what is not there: what is genuine first, then what shall run.
fn in_steps(files: &BTreeMap<String, String>) -> [Vec<&str>; 3] {
    let mut steps = [const { Vec::new() }; 3];
    for path in files.keys() {
        let step = match path.rsplit_once('/') {
            Some((ARTIFACTS, TIMESTAMP)) => 1,
            Some((_, TIMESTAMP)) => 2,
            _ => 0,
        };
        steps[step].push(path.as_str());
    }
    steps
}

/// Writes all of it, byte for byte. A step is on the stick before the next one begins.
pub(crate) fn write(stick: &Stick, files: &BTreeMap<String, String>) -> Result<(), Failure> {
    for step in in_steps(files) {
        let mut folders = BTreeSet::new();
        for path in step {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            if folders.insert(folder) {
                stick.make_folder(folder).map_err(stick.failed("make the folder", folder))?;
            }
            let text = files.get(path).map_or("", String::as_str);
            stick.write_unsynced(path, text.as_bytes()).map_err(stick.failed("write", path))?;
        }
        for folder in folders {
            stick.sync_folder(folder).map_err(stick.failed("write", folder))?;
        }
    }
    Ok(())
}

/// Removes what this export has not: older versions, and what is for nodes that the stick is not for. It goes by what lies
/// there: an export that was cut off has left no receipt, and who lays a grant on a stick names it in none.
pub(crate) fn prune(stick: &Stick, files: &BTreeMap<String, String>) -> Result<(), Failure> {
    prune_folder(stick, ARTIFACTS, files)?;
    for node in &lying(stick)? {
        let folder = director(node);
        let documents = format!("{folder}/targets");
        prune_folder(stick, &documents, files)?;
        prune_folder(stick, &folder, files)?;
        let grant = grant_path(node);
        if !files.contains_key(&grant) {
            stick.remove(&grant).map_err(stick.failed("remove", &grant))?;
        }
        if !files.contains_key(&format!("{folder}/{TIMESTAMP}")) {
            for folder in [&documents, &folder] {
                stick.remove_folder(folder).map_err(stick.failed("remove", folder))?;
            }
        }
    }
    Ok(())
}

/// The nodes that something lies there for.
fn lying(stick: &Stick) -> Result<BTreeSet<NodeId>, Failure> {
    let mut nodes = BTreeSet::new();
    for (place, ending) in [(ENROLL, ".json"), (DIRECTOR, "")] {
        let entries = stick.list(place, MAX_FILES).map_err(stick.failed("list", place))?;
        let ids = entries.iter().flatten().filter_map(|entry| entry.name.strip_suffix(ending));
        nodes.extend(ids.filter_map(|id| id.parse::<NodeId>().ok()));
    }
    Ok(nodes)
}

fn prune_folder(stick: &Stick, folder: &str, files: &BTreeMap<String, String>) -> Result<(), Failure> {
    let Some(entries) = stick.list(folder, MAX_FILES).map_err(stick.failed("list", folder))? else {
        return Ok(());
    };
    let is_old = |path: &str| path.ends_with(".json") && !files.contains_key(path);
    let mut removed = false;
    for entry in entries.into_iter().filter(|entry| !entry.is_folder) {
        let path = format!("{folder}/{}", entry.name);
        if is_old(&path) || entry.name.ends_with(".tmp") {
            removed |= stick.remove(&path).map_err(stick.failed("remove", &path))?;
        }
    }
    let synced: io::Result<()> = if removed { stick.sync_folder(folder) } else { Ok(()) };
    synced.map_err(stick.failed("write", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(paths: &[&str]) -> BTreeMap<String, String> {
        paths.iter().map(|path| ((*path).to_owned(), "{}".to_owned())).collect()
    }

    fn ids(ids: &[&str]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| id.parse().unwrap()).collect()
    }

    const A: &str = "n-aaaa000000000000";
    const B: &str = "n-bbbb000000000000";

    #[test]
    fn rejects_a_hub_that_writes_elsewhere() {
        for good in [
            "tuf/artifacts/1.root.json".to_owned(),
            format!("tuf/director/{A}/timestamp.json"),
            format!("tuf/director/{A}/targets/{}.desired-state.json", "0".repeat(64)),
            format!("enroll/{A}.json"),
        ] {
            assert!(check(&files(&[&good]), &ids(&[A])).is_ok(), "{good}");
        }
        for bad in [
            "autorun.inf".to_owned(),
            "cairn-bundle.json".into(),
            "tuf/artifacts/../../x.json".into(),
            "tuf/artifacts/..json/x.json".into(),
            "tuf/artifacts/.x.json".into(),
            "/tuf/artifacts/x.json".into(),
            format!("tuf/director/{B}/timestamp.json"),
            format!("tuf/director/{A}/targets/a/b.json"),
            format!("tuf/director/{A}/../x.json"),
            format!("enroll/{B}.json"),
            "enroll/../x.json".into(),
            format!("outbox/{A}/enroll.jws"),
            String::new(),
        ] {
            assert!(check(&files(&[&bad]), &ids(&[A])).is_err(), "{bad}");
        }
    }

    #[test]
    fn timestamps_are_written_last_and_what_is_genuine_before_what_shall_run() {
        let (a, b) = (format!("tuf/director/{A}/timestamp.json"), format!("tuf/director/{A}/2.targets.json"));
        let enroll = format!("enroll/{A}.json");
        let files =
            files(&["tuf/artifacts/timestamp.json", "tuf/artifacts/9.snapshot.json", &a, &b, &enroll]);
        let [first, genuine, shall_run] = in_steps(&files);
        assert_eq!(first.len(), 3);
        assert_eq!((genuine, shall_run), (vec!["tuf/artifacts/timestamp.json"], vec![a.as_str()]));
    }

    #[test]
    fn older_versions_and_nodes_that_are_gone_leave_the_stick() {
        let temp = tempfile::tempdir().unwrap();
        let stick = Stick::open(temp.path()).unwrap();
        let of = |node: &str, version: u32| {
            [
                "tuf/artifacts/1.root.json".to_owned(),
                format!("tuf/artifacts/{version}.targets.json"),
                format!("tuf/director/{node}/{version}.targets.json"),
                format!("tuf/director/{node}/targets/{version}.json"),
                format!("enroll/{node}.json"),
            ]
        };
        let (old, gone, new) = (of(A, 1), of(B, 1), of(A, 2));
        let all = |paths: &[String]| files(&paths.iter().map(String::as_str).collect::<Vec<_>>());
        for paths in [&old, &gone, &new] {
            write(&stick, &all(paths)).unwrap();
        }
        std::fs::write(temp.path().join("tuf/artifacts/mine.txt"), "").unwrap();
        let timestamp = format!("tuf/director/{A}/timestamp.json");
        prune(&stick, &all(&[new.as_slice(), &[timestamp]].concat())).unwrap();
        for path in &new {
            assert!(temp.path().join(path).exists(), "{path}");
        }
        for path in old[1..4].iter().chain(&gone[1..]) {
            assert!(!temp.path().join(path).exists(), "{path}");
        }
        assert!(!temp.path().join(director(&B.parse().unwrap())).exists());
        assert!(temp.path().join("tuf/artifacts/mine.txt").exists());
    }
}
