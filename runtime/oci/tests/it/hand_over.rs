//! Under a service manager the runtime leaves, and the container's first process is the service.

use std::{fs, os::unix::net::UnixDatagram, time::Duration};

use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::Pid,
};

use crate::support::{Replica, Started};

/// Starts the replica as a service manager does.
fn start(replica: &Replica) -> (Started, UnixDatagram) {
    // What PID 1 is on a real machine: the one that orphans go to.
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let socket = UnixDatagram::bind(replica.path("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let runtime = Started::new(replica.command("run").env("NOTIFY_SOCKET", replica.path("notify")));
    (runtime, socket)
}

fn receive(socket: &UnixDatagram) -> String {
    let mut buffer = [0u8; 256];
    let length = socket.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

fn main_pid(message: &str) -> Pid {
    assert!(message.lines().any(|line| line == "READY=1"), "{message}");
    let pid = message.lines().find_map(|line| line.strip_prefix("MAINPID=")).unwrap();
    Pid::from_raw(pid.parse().unwrap())
}

#[test]
fn container_outlives_the_runtime_and_its_exit_code_reaches_the_manager() {
    let replica = Replica::new("cat /gate; exit 5");
    let gate = replica.path("layer/gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let (runtime, socket) = start(&replica);
    let pid = main_pid(&receive(&socket));

    // systemd supervises its own children only: this must be one when it is told.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let parent = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap();
    assert_eq!(parent, std::process::id().to_string());
    assert_eq!(receive(&socket), "BARRIER=1");
    assert_eq!(runtime.ends(), Some(0));

    // It runs, without any process of the runtime, and commands can be run in it; then it ends.
    replica.exec(&["sh", "-c", "echo go > /gate"]).ok();
    assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Exited(pid, 5));
    replica.cleanup().ok();
    replica.assert_nothing_left();
}

#[test]
fn workload_does_not_start_before_the_manager_knows_it() {
    let replica = Replica::new("exit 5");
    let (runtime, socket) = start(&replica);
    let pid = main_pid(&receive(&socket));
    // The barrier is not read yet: however short the workload is, it must still be there.
    let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert!(command.starts_with("youki"), "the workload runs already: {command}");
    assert_eq!(receive(&socket), "BARRIER=1");
    assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Exited(pid, 5));
    assert_eq!(runtime.ends(), Some(0));
}

#[test]
fn failed_start_is_the_runtimes_own_failure_and_leaves_nothing() {
    let replica = Replica::of_command(&["/no/such"]);
    let (runtime, _socket) = start(&replica);
    assert_eq!(runtime.ends(), Some(125));
    replica.assert_nothing_left();
}
