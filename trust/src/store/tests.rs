//! What the store must survive and what it must refuse.

use super::*;

fn store_with(files: &[(&str, &str)]) -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::init(folder.path(), b"root").unwrap();
    let files: Vec<_> = files.iter().map(|(n, b)| ((*n).to_owned(), b.as_bytes().to_vec())).collect();
    store.commit(&files).unwrap();
    (folder, store)
}

#[test]
fn what_was_committed_is_there_after_reopening() {
    let (folder, _) = store_with(&[("timestamp.json", "t1")]);
    let mut store = Store::open(folder.path()).unwrap();
    assert_eq!(store.file(ROOT), Some(&b"root"[..]));
    store.commit(&[("timestamp.json".into(), b"t2".to_vec()), ("a%2Fb.json".into(), b"d".to_vec())]).unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.file("timestamp.json"), Some(&b"t2"[..]));
    assert_eq!(store.file("a%2Fb.json"), Some(&b"d"[..]));
}

#[test]
fn refuses_missing_torn_and_swapped_state_and_names_the_cure() {
    let refused = |folder: &Path| {
        let error = Store::open(folder).unwrap_err().to_string();
        assert!(error.contains("enrol the node again"), "{error}");
        // Nor does pinning again reset it.
        assert!(Store::init(folder, b"root").is_err());
    };
    for victim in [ROOT, "timestamp.json", STATE_FILE] {
        let (folder, _) = store_with(&[("timestamp.json", "t1")]);
        let path = folder.path().join(victim);
        let whole = std::fs::read(&path).unwrap();
        for torn in [&whole[..0], &whole[..whole.len() / 2], &whole[..whole.len() - 1], &b"garbage"[..]] {
            std::fs::write(&path, torn).unwrap();
            refused(folder.path());
        }
        std::fs::remove_file(&path).unwrap();
        refused(folder.path());
    }
}

#[test]
fn refuses_a_file_put_back_from_an_earlier_day() {
    let (folder, mut store) = store_with(&[("timestamp.json", "t1")]);
    store.commit(&[("timestamp.json".into(), b"t2".to_vec())]).unwrap();
    std::fs::write(folder.path().join("timestamp.json"), b"t1").unwrap();
    assert!(matches!(Store::open(folder.path()), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_power_cut_between_any_two_writes_leaves_a_store_that_opens() {
    let (folder, mut store) = store_with(&[("timestamp.json", "t1")]);
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let (state_old, t_old) = (read(STATE_FILE), read("timestamp.json"));
    // The first step of a commit, made by hand: the state that names both hashes.
    let mut pending = store.state.clone();
    pending.files.get_mut("timestamp.json").unwrap().next = Some(hash(b"t2"));
    pending.files.insert("new.json".into(), Entry { sha256: String::new(), next: Some(hash(b"n")) });
    let state_pending = encode(&pending).into_bytes();
    store.commit(&[("timestamp.json".into(), b"t2".to_vec()), ("new.json".into(), b"n".to_vec())]).unwrap();
    let state_new = read(STATE_FILE);
    let steps: [(&[u8], &[u8], bool); 5] = [
        (&state_old, &t_old, false),
        (&state_pending, &t_old, false),
        (&state_pending, b"t2", false),
        (&state_pending, b"t2", true),
        (&state_new, b"t2", true),
    ];
    for (state, timestamp, new) in steps {
        std::fs::write(folder.path().join(STATE_FILE), state).unwrap();
        std::fs::write(folder.path().join("timestamp.json"), timestamp).unwrap();
        let path = folder.path().join("new.json");
        if new {
            std::fs::write(&path, b"n").unwrap()
        } else {
            std::fs::remove_file(&path).unwrap_or(())
        }
        let mut store = Store::open(folder.path()).unwrap();
        assert_eq!(store.file("timestamp.json"), Some(timestamp));
        assert_eq!(store.file("new.json").is_some(), new);
        // And it goes on from there.
        store.commit(&[("timestamp.json".into(), b"t3".to_vec())]).unwrap();
        assert_eq!(Store::open(folder.path()).unwrap().file("timestamp.json"), Some(&b"t3"[..]));
    }
}

#[test]
fn pinning_twice_is_nothing_and_pinning_another_root_is_refused() {
    let (folder, _) = store_with(&[]);
    assert!(Store::init(folder.path(), b"root").is_ok());
    assert!(matches!(Store::init(folder.path(), b"other"), Err(StoreError::Occupied { .. })));
}
