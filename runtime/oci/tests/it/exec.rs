//! Commands inside a running container.

use std::fs;

use crate::support::{Finished, Replica};

#[test]
fn gives_the_commands_code_and_runs_as_the_container_does() {
    let mut replica = Replica::of_command(&["/bin/sleep", "1000"]);
    replica.workload.user = "web".to_owned();
    replica.workload.env = vec!["NAME=value".to_owned()];
    replica.workload.cwd = "/tmp".to_owned();
    let _shim = replica.start();
    assert_eq!(replica.exec(&["sh", "-c", "exit 3"]).code, Some(3));
    let output = replica
        .exec(&["sh", "-c", "id -u; pwd; echo $NAME; hostname; cat /proc/self/status; cat /proc/1/cmdline"])
        .ok();
    for line in ["33", "/tmp", "value", "box", "Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000"] {
        assert!(output.lines().any(|l| l == line), "{line:?} is missing in {output}");
    }
    assert!(output.ends_with("/bin/sleep\x001000\x00"), "{output}");
}

#[test]
fn command_that_outlives_its_timeout_is_killed() {
    let replica = Replica::of_command(&["/bin/sleep", "1000"]);
    let _shim = replica.start();
    let mut command = replica.command("exec");
    command.args(["--timeout", "1", "--", "sh", "-c", "sleep 777 & wait"]);
    assert_eq!(command.status().unwrap().code(), Some(124));
    let left = replica.exec(&["sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | grep -c '77[7]'"]);
    assert_eq!(left.stdout.trim(), "0", "its child is left");
}

#[test]
fn unknown_command_and_stopped_container_are_refused() {
    let replica = Replica::of_command(&["/bin/sleep", "1000"]);
    assert!(replica.exec(&["true"]).refused().contains("is not running"));
    let _shim = replica.start();
    assert!(replica.exec(&["no-such"]).refused().contains("\"no-such\" is not an executable file"));
    let left: Vec<_> =
        fs::read_dir(replica.container_dir()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("exec-")), "{left:?}");
    let Finished { code, .. } = replica.cleanup();
    assert_eq!(code, Some(0));
    assert!(replica.exec(&["true"]).refused().contains("is not running"));
}
