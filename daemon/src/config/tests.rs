//! Configuration: what is merged, what wins, and how mistakes are named.

use super::*;

fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn refused(files: &[(&str, &str)]) -> String {
    Settings::load(root(files).path(), None).unwrap_err().to_string()
}

#[test]
fn nothing_at_all_is_a_valid_configuration() {
    let settings = Settings::load(root(&[]).path(), None).unwrap();
    assert_eq!(settings.state_dir, Path::new("/var/lib/cairn"));
    assert_eq!(settings.supervisor, SupervisorKind::Systemd);
    assert_eq!(settings.hub, None);
}

#[test]
fn drop_ins_win_by_name_and_etc_masks_run() {
    let dir = root(&[
        ("etc/cairn/cairnd.toml", "[log]\nlevel = 'a'\n[node.labels]\nzone = 'x'"),
        ("run/cairn/cairnd.toml.d/20-b.toml", "[log]\nlevel = 'run-20'"),
        ("etc/cairn/cairnd.toml.d/10-a.toml", "[log]\nlevel = 'etc-10'\n[node.labels]\nrack = 'y'"),
        ("run/cairn/cairnd.toml.d/10-a.toml", "[node.labels]\nrack = 'masked'"),
    ]);
    let settings = Settings::load(dir.path(), None).unwrap();
    assert_eq!(settings.log, "run-20");
    assert_eq!(settings.labels["zone"], "x");
    assert_eq!(settings.labels["rack"], "y");
}

#[test]
fn credentials_win_over_files_and_are_never_printed() {
    let dir = root(&[
        ("etc/cairn/cairnd.toml", "[hub]\nurl = 'https://old:1'"),
        ("cred/cairn.hub", "https://new:8443\n"),
        ("cred/cairn.enroll-token", "s3cret\n"),
    ]);
    let settings = Settings::load(dir.path(), Some(&dir.path().join("cred"))).unwrap();
    let hub = settings.hub.clone().unwrap();
    assert_eq!(hub.url.as_str(), "https://new:8443/");
    assert_eq!(hub.token.unwrap().read().unwrap(), "s3cret");
    assert!(!format!("{settings:?}").contains("s3cret"));
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    let message = refused(&[("etc/cairn/cairnd.toml", "[hub]\nurll = 'x'")]);
    assert!(message.contains("hub.urll") && message.contains("did you mean \"url\"?"), "{message}");
    let message = refused(&[("etc/cairn/cairnd.toml", "[nodes]\n")]);
    assert!(message.contains("did you mean \"node\"?"), "{message}");
    let message = refused(&[("etc/cairn/cairnd.toml", "[log]\nsomething_else = 1")]);
    assert!(message.contains("known are level"), "{message}");
}

#[test]
fn values_that_cannot_work_are_named() {
    for (text, part) in [
        ("[hub]\nurl = 'http://hub'", "hub.url"),
        ("[hub]\nurl = 'https://hub/path'", "hub.url"),
        ("[hub]\nurl = 'hub'", "hub.url"),
        ("[node]\nstate_dir = 'relative'", "node.state_dir"),
        ("[node]\nrun_dir = '/a/../b'", "node.run_dir"),
        ("[network]\nrange = '8.8.0.0/16'", "network.range"),
        ("[network]\nrange = '10.89.1.0/24'", "network.range"),
        ("[runtime]\nsupervisor = 'docker'", "wrong type"),
        ("[os]\nhealth_command = ['check']", "os.health_command"),
        ("[os]\nhealth_command = '/bin/check it'", "wrong type"),
        ("[log", "TOML"),
    ] {
        let message = refused(&[("etc/cairn/cairnd.toml", text)]);
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn a_huge_file_is_refused_before_it_is_read() {
    let text = "#".repeat(300 << 10);
    assert!(refused(&[("etc/cairn/cairnd.toml", &text)]).contains("larger than"));
}

#[test]
fn expected_roots_are_taken_as_they_are_shown() {
    let shown = ["ab12"; 16].join(" ").to_uppercase();
    let dir = root(&[("etc/cairn/cairnd.toml", &format!("[trust]\nroots_sha256 = '{shown}'"))]);
    let settings = Settings::load(dir.path(), None).unwrap();
    assert_eq!(settings.roots_sha256.as_deref(), Some("ab12".repeat(16).as_str()));
    let dir = root(&[("cred/cairn.roots-sha256", &"cd".repeat(32))]);
    let settings = Settings::load(dir.path(), Some(&dir.path().join("cred"))).unwrap();
    assert_eq!(settings.roots_sha256.as_deref(), Some("cd".repeat(32).as_str()));
    for wrong in ["ab12", "sha256:ab", &"xy".repeat(32)] {
        let message = refused(&[("etc/cairn/cairnd.toml", &format!("[trust]\nroots_sha256 = '{wrong}'"))]);
        assert!(message.contains("trust.roots_sha256") && message.contains("cairn trust roots"), "{message}");
    }
}

#[test]
fn the_token_is_read_when_it_is_needed_and_what_is_wrong_with_it_is_named() {
    let dir = root(&[]);
    let token = dir.path().join("token");
    let config = format!("[hub]\nurl = 'https://hub:1'\ntoken_file = '{}'", token.display());
    fs::create_dir_all(dir.path().join("etc/cairn")).unwrap();
    fs::write(dir.path().join("etc/cairn/cairnd.toml"), config).unwrap();
    // A member's token may be gone by now: that is no reason not to start.
    let file = Settings::load(dir.path(), None).unwrap().hub.unwrap().token.unwrap();
    assert!(file.read().unwrap_err().to_string().contains("check that it exists"));
    fs::write(&token, " \n").unwrap();
    let empty = file.read().unwrap_err().to_string();
    assert!(empty.contains("is empty") && empty.contains("cairn token create"), "{empty}");
    fs::write(&token, "x".repeat(300 << 10)).unwrap();
    assert!(file.read().unwrap_err().to_string().contains("larger than"));
    for text in ["old", "new\n"] {
        fs::write(&token, text).unwrap();
        assert_eq!(file.read().unwrap(), text.trim());
    }
}
