//! What is compiled and what is loaded: everything else is refused, with the cause and the cure.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown},
};

use nix::unistd::geteuid;

use crate::bed::{Bed, assert_refused, program};

const COMMAND: &str = r#"(module (func (export "_start")))"#;

#[test]
fn refuses_what_is_not_webassembly() {
    let bed = Bed::new();
    assert_refused(&bed.try_precompile(b"\x7fELF garbage"), 125, &["not WebAssembly"]);
    assert_refused(&bed.try_precompile(b""), 125, &["not WebAssembly"]);
    assert_refused(&bed.try_precompile(COMMAND.as_bytes()), 125, &["text", "wasm-tools parse"]);
    let mut cut = wat::parse_str(COMMAND).unwrap();
    cut.truncate(cut.len() - 2);
    assert_refused(&bed.try_precompile(&cut), 125, &["failed to compile"]);
    assert!(!bed.artifact().exists());
}

#[test]
fn refuses_a_library() {
    let bed = Bed::new();
    let module = wat::parse_str("(module)").unwrap();
    assert_refused(&bed.try_precompile(&module), 125, &["no function `_start`"]);
    let component = wat::parse_str("(component)").unwrap();
    assert_refused(&bed.try_precompile(&component), 125, &["exports nothing", "wasi:http/incoming-handler"]);
}

#[test]
fn names_the_missing_import() {
    let bed = Bed::new();
    let module = r#"(module (import "env" "frobnicate" (func)) (func (export "_start")))"#;
    let output = bed.try_precompile(&wat::parse_str(module).unwrap());
    assert_refused(&output, 125, &["`frobnicate` from `env`", "WASI preview 1"]);
    let module = r#"(module (import "wasi_snapshot_preview1" "frobnicate" (func)) (func (export "_start")))"#;
    let output = bed.try_precompile(&wat::parse_str(module).unwrap());
    assert_refused(&output, 125, &["frobnicate"]);
    let component = r#"(component
        (import "acme:db/store@1.0.0" (instance (export "get" (func))))
        (core module $m (func (export "run") (result i32) i32.const 0))
        (core instance $i (instantiate $m))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $r (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $r)))"#;
    let output = bed.try_precompile(&wat::parse_str(component).unwrap());
    assert_refused(&output, 125, &["`acme:db/store@1.0.0`", "WASI 0.2"]);
}

#[test]
fn refuses_an_input_that_is_too_large() {
    let bed = Bed::new();
    fs::write(bed.path("guest.wasm"), wat::parse_str(COMMAND).unwrap()).unwrap();
    let output = program()
        .args(["precompile", "--max-bytes", "16"])
        .args([bed.path("guest.wasm"), bed.artifact()])
        .output()
        .unwrap();
    assert_refused(&output, 125, &["larger than 16 bytes", "--max-bytes"]);
}

#[test]
fn a_new_artifact_replaces_the_old_one_and_leaves_nothing_else() {
    let bed = Bed::new();
    bed.precompile(COMMAND);
    bed.precompile(COMMAND);
    let mut names: Vec<_> =
        fs::read_dir(bed.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["guest.cwasm", "guest.wasm"]);
    assert_eq!(fs::metadata(bed.artifact()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn writes_the_kind_to_a_file_too() {
    let bed = Bed::new();
    fs::write(bed.path("guest.wasm"), wat::parse_str(COMMAND).unwrap()).unwrap();
    let output = program()
        .arg("precompile")
        .arg("--kind-file")
        .args([bed.path("kind"), bed.path("guest.wasm"), bed.artifact()])
        .output()
        .unwrap();
    assert_eq!(fs::read(bed.path("kind")).unwrap(), output.stdout);
    assert_eq!(output.stdout, b"{\"kind\":\"p1-command\"}\n");
}

#[test]
fn rejects_tampered_artifact() {
    let bed = Bed::new();
    bed.precompile(COMMAND);
    let good = fs::read(bed.artifact()).unwrap();
    for at in [0, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(bed.artifact(), bad).unwrap();
        assert_refused(&bed.run(|_| {}), 125, &["damaged", "delete it"]);
    }
    fs::write(bed.artifact(), &good[..good.len() / 2]).unwrap();
    assert_refused(&bed.run(|_| {}), 125, &["damaged", "delete it"]);
    fs::write(bed.artifact(), b"").unwrap();
    assert_refused(&bed.run(|_| {}), 125, &["too short"]);
    fs::write(bed.artifact(), good).unwrap();
    assert_eq!(bed.run(|_| {}).status.code(), Some(0));
}

#[test]
fn rejects_artifact_that_others_could_have_written() {
    let bed = Bed::new();
    bed.precompile(COMMAND);
    fs::set_permissions(bed.artifact(), Permissions::from_mode(0o620)).unwrap();
    assert_refused(&bed.run(|_| {}), 125, &["not to be trusted", "620"]);
    fs::set_permissions(bed.artifact(), Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(bed.path(""), Permissions::from_mode(0o777)).unwrap();
    assert_refused(&bed.run(|_| {}), 125, &["folder", "777"]);
    fs::set_permissions(bed.path(""), Permissions::from_mode(0o700)).unwrap();
    assert_eq!(bed.run(|_| {}).status.code(), Some(0));
    // Only root can give a file away.
    if geteuid().is_root() {
        chown(bed.artifact(), Some(65534), None).unwrap();
        assert_refused(&bed.run(|_| {}), 125, &["belongs to user 65534"]);
    }
}

#[test]
fn rejects_artifact_behind_a_symlink() {
    let bed = Bed::new();
    bed.precompile(COMMAND);
    fs::rename(bed.artifact(), bed.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(bed.path("elsewhere"), bed.artifact()).unwrap();
    assert_refused(&bed.run(|_| {}), 125, &["failed to open artifact"]);
}

#[test]
fn refuses_a_workload_that_it_cannot_read() {
    let bed = Bed::new();
    bed.precompile(COMMAND);
    assert_refused(&bed.run(|workload| workload["module"] = "/nowhere".into()), 125, &["/nowhere"]);
    assert_refused(&bed.run(|workload| workload["what"] = 1.into()), 125, &["unknown field `what`"]);
    let output = program().arg("run").arg(bed.path("absent.json")).output().unwrap();
    assert_refused(&output, 125, &["failed to read workload"]);
}
