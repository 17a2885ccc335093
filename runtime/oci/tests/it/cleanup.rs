//! A run that was killed anywhere leaves nothing that a cleanup, or the next run, does not take away.

use crate::support::{Replica, wait_for};

/// What a run makes, in order.
const STEPS: [&str; 8] =
    ["", "lock", "cgroup", "netns", "etc/hosts", "bundle/config.json", "state/ID", "state/ID/notify.sock"];

#[test]
fn cleanup_without_a_run_is_fine_twice() {
    let replica = Replica::new("true");
    replica.cleanup().ok();
    replica.cleanup().ok();
    replica.assert_nothing_left();
}

#[test]
fn cleanup_after_kill_at_every_step() {
    for step in STEPS {
        let replica = Replica::of_command(&["/bin/sleep", "1000"]);
        let run = replica.start_until(&step.replace("ID", &replica.workload.id));
        run.kill();
        replica.cleanup().ok();
        replica.assert_nothing_left();
        replica.cleanup().ok();
    }
}

#[test]
fn cleanup_kills_a_running_container_whose_shim_was_killed() {
    let replica = Replica::of_command(&["/bin/sh", "-c", "trap '' TERM; sleep 1000 & wait; sleep 1000"]);
    let shim = replica.start();
    let pid = replica.exec(&["sh", "-c", "echo running"]).ok();
    assert_eq!(pid, "running\n");
    shim.kill();
    assert_eq!(replica.exec(&["true"]).code, Some(0), "the container died with the shim");
    replica.cleanup().ok();
    replica.assert_nothing_left();
}

#[test]
fn next_run_replaces_what_a_killed_one_left() {
    let mut replica = Replica::of_command(&["/bin/sleep", "1000"]);
    let shim = replica.start();
    shim.kill();
    replica.workload.args = vec!["/bin/echo".to_owned(), "again".to_owned()];
    assert_eq!(replica.run().ok(), "again\n");
    replica.assert_nothing_left();
}

#[test]
fn mounts_never_show_on_the_node() {
    let replica = Replica::of_command(&["/bin/sleep", "1000"]);
    let _shim = replica.start();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let run_dir = replica.workload.run_dir.to_str().unwrap();
    let ours: Vec<_> = mounts.lines().filter(|line| line.contains(run_dir)).collect();
    assert_eq!(ours.len(), 1, "{ours:?}");
    assert!(ours[0].contains("/netns "), "{ours:?}");
    replica.cleanup().ok();
    wait_for("the mounts to go", || {
        !std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(run_dir)
    });
}
