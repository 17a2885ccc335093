//! Commands of both WASI versions: arguments, exit codes, folders, limits.

use std::fs;

use serde_json::json;

use crate::bed::{Bed, assert_refused, stderr};

const EXIT: &str = r#"(module
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (func (export "_start") (call $exit (i32.const 7))))"#;

#[test]
fn p1_passes_the_exit_code_on() {
    let bed = Bed::new();
    assert_eq!(bed.precompile(EXIT), "p1-command");
    assert_eq!(bed.run(|_| {}).status.code(), Some(7));
}

#[test]
fn p1_sees_its_arguments_and_environment_only() {
    let bed = Bed::new();
    // Exit code: ten for each argument, one for each variable.
    bed.precompile(
        r#"(module
        (import "wasi_snapshot_preview1" "args_sizes_get" (func $args (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "_start")
          (drop (call $args (i32.const 0) (i32.const 4)))
          (drop (call $environ (i32.const 8) (i32.const 12)))
          (call $exit (i32.add (i32.mul (i32.const 10) (i32.load (i32.const 0))) (i32.load (i32.const 8))))))"#,
    );
    let output = bed.run(|workload| {
        workload["args"] = json!(["guest", "a b", ""]);
        workload["env"] = json!(["A=1", "B="]);
    });
    assert_eq!(output.status.code(), Some(32), "{}", stderr(&output));
}

#[test]
fn p1_writes_to_stdout() {
    let bed = Bed::new();
    bed.precompile(
        r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\08\00\00\00\06\00\00\00hello\n")
        (func (export "_start") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))))"#,
    );
    let output = bed.run(|_| {});
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"hello\n".as_slice()));
}

/// Creates `new` in the first preopened folder and exits with the errno.
const CREATE: &str = r#"(module
    (import "wasi_snapshot_preview1" "path_open"
      (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "new../escaped")
    (func (export "_start")
      (call $exit (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 3) (i32.const 1)
        (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 64)))))"#;

#[test]
fn preopen_is_writable_where_it_should_be() {
    let bed = Bed::new();
    bed.precompile(CREATE);
    fs::create_dir(bed.path("data")).unwrap();
    let mount = json!([{"type": "bind", "source": bed.path("data"), "target": "/data", "read_only": false}]);
    let output = bed.run(|workload| workload["preopens"] = mount);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(bed.path("data/new").exists());
}

#[test]
fn read_only_preopen_cannot_be_written() {
    let bed = Bed::new();
    bed.precompile(CREATE);
    fs::create_dir(bed.path("data")).unwrap();
    let mount = json!([{"type": "bind", "source": bed.path("data"), "target": "/data", "read_only": true}]);
    let output = bed.run(|workload| workload["preopens"] = mount);
    const EPERM: i32 = 63;
    assert_eq!(output.status.code(), Some(EPERM), "{}", stderr(&output));
    assert!(!bed.path("data/new").exists());
}

#[test]
fn preopen_cannot_be_left() {
    let bed = Bed::new();
    bed.precompile(
        &CREATE.replace(
            "(i32.const 0) (i32.const 3) (i32.const 1)",
            "(i32.const 3) (i32.const 10) (i32.const 1)",
        ),
    );
    fs::create_dir(bed.path("data")).unwrap();
    let mount = json!([{"type": "bind", "source": bed.path("data"), "target": "/data", "read_only": false}]);
    let output = bed.run(|workload| workload["preopens"] = mount);
    assert_ne!(output.status.code(), Some(0));
    assert!(!bed.path("escaped").exists());
}

#[test]
fn a_missing_folder_is_named() {
    let bed = Bed::new();
    bed.precompile(EXIT);
    let mount = json!([{"type": "bind", "source": "/no/such", "target": "/data", "read_only": true}]);
    assert_refused(&bed.run(|workload| workload["preopens"] = mount), 125, &["/no/such", "/data"]);
}

#[test]
fn memory_limit_traps() {
    let bed = Bed::new();
    bed.precompile(
        r#"(module (memory (export "memory") 1)
        (func (export "_start") (loop (drop (memory.grow (i32.const 16))) (br 0))))"#,
    );
    assert_refused(&bed.run(|_| {}), 134, &["limit of 16777216", "deploy.resources.limits.memory"]);
}

#[test]
fn memory_limit_holds_from_the_first_byte() {
    let bed = Bed::new();
    bed.precompile(r#"(module (memory (export "memory") 512) (func (export "_start")))"#);
    assert_refused(&bed.run(|_| {}), 134, &["needs 33554432 bytes", "limit of 16777216"]);
}

#[test]
fn a_trap_is_told_in_words() {
    let bed = Bed::new();
    bed.precompile(r#"(module (func $inner unreachable) (func $main (export "_start") (call $inner)))"#);
    assert_refused(&bed.run(|_| {}), 134, &["the guest aborted", "in inner < main"]);
    bed.precompile(r#"(module (func $deep (export "_start") (call $deep)))"#);
    assert_refused(&bed.run(|_| {}), 134, &["recurses too deeply"]);
}

#[test]
fn a_command_serves_no_port() {
    let bed = Bed::new();
    bed.precompile(EXIT);
    let output = bed.run(|workload| workload["listen"] = json!(["127.0.0.1:1"]));
    assert_refused(&output, 125, &["remove `ports`"]);
}

fn p2(result: u8) -> String {
    format!(
        r#"(component
        (core module $m (func (export "run") (result i32) i32.const {result}))
        (core instance $i (instantiate $m))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $r (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $r)))"#
    )
}

#[test]
fn p2_passes_its_result_on() {
    let bed = Bed::new();
    assert_eq!(bed.precompile(&p2(0)), "p2-command");
    assert_eq!(bed.run(|_| {}).status.code(), Some(0));
    bed.precompile(&p2(1));
    assert_eq!(bed.run(|_| {}).status.code(), Some(1));
}

#[test]
fn p2_passes_the_exit_code_on() {
    let bed = Bed::new();
    let component = r#"(component
        (import "wasi:cli/exit@0.2.0" (instance $exit (export "exit" (func (param "status" (result))))))
        (core func $exit (canon lower (func $exit "exit")))
        (core module $m
          (import "host" "exit" (func $exit (param i32)))
          (func (export "run") (result i32) (call $exit (i32.const 1)) unreachable))
        (core instance $i (instantiate $m (with "host" (instance (export "exit" (func $exit))))))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $r (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $r)))"#;
    assert_eq!(bed.precompile(component), "p2-command");
    assert_eq!(bed.run(|_| {}).status.code(), Some(1));
}

#[test]
fn p2_memory_limit_traps() {
    let bed = Bed::new();
    bed.precompile(&p2(0).replace("(core module $m ", "(core module $m (memory 512) "));
    assert_refused(&bed.run(|_| {}), 134, &["limit of 16777216"]);
}
