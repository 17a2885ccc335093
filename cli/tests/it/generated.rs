//! Help, completions, man pages, version.

use crate::run::User;

#[test]
fn help_has_the_exit_codes() {
    let help = User::new().run(&["--help"]).ok();
    for line in ["Exit codes:", "  3  not found", "  7  not done in time", "CAIRN_TOKEN_FILE"] {
        assert!(help.contains(line), "{help}");
    }
}

#[test]
fn completions_and_man_pages_are_made_for_every_command() {
    let user = User::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(user.run(&["completions", shell]).ok().contains("approve"));
    }
    user.run(&["man", "man"]).ok();
    for page in [
        "cairn.1",
        "cairn-node-approve.1",
        "cairn-app-deploy.1",
        "cairn-os-set.1",
        "cairn-local-status.1",
        "cairn-local-os-apply.1",
        "cairn-usb-export.1",
        "cairn-usb-verify.1",
        "cairn-usb-import.1",
        "cairn-trust-roots.1",
        "cairn-node-freshness.1",
    ] {
        assert!(user.path("man").join(page).is_file(), "{page}");
    }
}

#[test]
fn the_version_is_printed() {
    assert_eq!(User::new().run(&["version"]).ok(), format!("cairn {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    use std::process::Stdio;
    let user = User::new();
    let mut child = user.command(&["completions", "zsh"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}
