//! Which of several files of one version counts.

use super::*;

fn check(names: &[&str], running: bool, expected: &str) {
    let names: Vec<BootEntry> = names.iter().map(|name| name.parse().unwrap()).collect();
    assert_eq!(names[chosen(&names, running)].to_string(), expected, "{names:?}, running: {running}");
}

#[test]
fn of_the_running_versions_twins_the_best_counts() {
    check(&["cairn_1+0-3.efi", "cairn_1.efi"], true, "cairn_1.efi");
    check(&["cairn_1+1-2.efi", "cairn_1+2-1.efi"], true, "cairn_1+2-1.efi");
    check(&["cairn_1+0-3.efi", "cairn_1+1-2.efi"], true, "cairn_1+1-2.efi");
    check(&["cairn_1+0-2.efi", "cairn_1+0-1.efi"], true, "cairn_1+0-1.efi");
}

#[test]
fn of_another_versions_twins_the_worst_counts() {
    check(&["cairn_1.efi", "cairn_1+0-1.efi"], false, "cairn_1+0-1.efi");
    check(&["cairn_1+2-1.efi", "cairn_1.efi"], false, "cairn_1.efi");
    check(&["cairn_1+3-0.efi", "cairn_1+1-2.efi"], false, "cairn_1+1-2.efi");
}

#[test]
fn staged_files_are_none_that_the_loader_sees() {
    let name = staged_name(&"1.2".parse().unwrap());
    assert!(is_staged(&name) && name.starts_with('.') && !name.ends_with(".efi"));
    for foreign in ["cairn_1.efi", ".cairn_1.efi", "cairn_1.tmp", ".other.tmp"] {
        assert!(!is_staged(foreign), "{foreign}");
    }
}

#[test]
fn torn_names_are_those_that_fat_makes_of_ours() {
    for torn in ["CAIRN_~1.EFI", "cairn_~9.efi", "CA3F21~1.EFI"] {
        assert!(is_torn_name(torn), "{torn}");
    }
    for other in [
        "cairn_1.efi",
        "CAIRN_~1.TMP",
        "CAIRN_~12.EFI",
        "OTHER~1.EFI",
        "CAIRN_~.EFI",
        "CAIRN~1.EFI",
        "~1.EFI",
    ] {
        assert!(!is_torn_name(other), "{other}");
    }
}
