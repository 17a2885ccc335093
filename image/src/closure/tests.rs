//! Closures that are none, and those that are too large.

use super::*;

fn list(text: &str) -> Result<Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store-paths");
    std::fs::write(&file, text).unwrap();
    store_paths(&file)
}

#[test]
fn a_list_is_sorted_and_each_path_once() {
    let names = list("/nix/store/bbb-two\n/nix/store/aaa-one\n/nix/store/bbb-two\n").unwrap();
    assert_eq!(names, ["aaa-one", "bbb-two"]);
}

#[test]
fn refuses_what_is_no_store_path() {
    for bad in ["", "/nix/store/\n", "/nix/store/../etc\n", "/nix/store/a/b\n", "/etc/passwd\n", "aaa-one\n"]
    {
        let said = format!("{:#}", list(bad).unwrap_err());
        assert!(said.contains("store path"), "{bad:?}: {said}");
    }
}

#[test]
fn the_root_is_the_store_and_places_to_mount_on() {
    let store = tempfile::tempdir().unwrap();
    let program = store.path().join("aaa-one/bin");
    std::fs::create_dir_all(&program).unwrap();
    std::fs::write(program.join("run"), "#!").unwrap();
    std::fs::set_permissions(program.join("run"), PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("/nix/store/aaa-one/bin/run", program.join("link")).unwrap();
    std::fs::write(store.path().join("bbb-two"), "text").unwrap();
    let names = ["aaa-one".to_owned(), "bbb-two".to_owned()];
    let tree = root_of(store.path(), &names, MIB).unwrap();
    assert_eq!(tree.get("nix/store/aaa-one/bin/run").unwrap().mode, 0o555);
    assert_eq!(tree.get("nix/store/aaa-one/bin/link").unwrap(), &Node::link("/nix/store/aaa-one/bin/run"));
    assert_eq!(tree.get("nix/store/bbb-two").unwrap().mode, 0o444);
    assert!(tree.get("var").is_some() && tree.get("proc").is_some());
}

#[test]
fn refuses_a_closure_that_no_slot_takes_and_says_how_to_make_it_smaller() {
    let store = tempfile::tempdir().unwrap();
    std::fs::write(store.path().join("aaa-large"), [0; 100]).unwrap();
    let said = format!("{:#}", root_of(store.path(), &["aaa-large".to_owned()], 99).unwrap_err());
    assert!(said.contains("slot") && said.contains("path-info"), "{said}");
}

#[test]
fn refuses_a_kernel_image_of_which_three_do_not_fit_the_esp() {
    assert!(ensure_fits_esp(MAX_KERNEL_IMAGE, MIB).is_ok());
    let said = ensure_fits_esp(MAX_KERNEL_IMAGE + 1, 40 * MIB).unwrap_err().to_string();
    assert!(said.contains("40 of them the initrd") && said.contains("boot.initrd.compressor"), "{said}");
    const { assert!(3 * MAX_KERNEL_IMAGE < ESP_SIZE) };
}

#[test]
fn a_kernel_says_its_release() {
    let mut kernel = vec![0; 0x400];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    let text = b"6.18.49 (builder@host) #1 SMP\0";
    kernel[0x300..0x300 + text.len()].copy_from_slice(text);
    assert_eq!(uname(&kernel).unwrap(), "6.18.49");
    assert_eq!(uname(&kernel[..0x208]), None);
    kernel[0x202] = 0;
    assert_eq!(uname(&kernel), None);
}
