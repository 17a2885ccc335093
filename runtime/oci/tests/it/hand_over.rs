//! Under a service manager the runtime leaves, and the container's first process is the service.

use std::{os::unix::net::UnixDatagram, time::Duration};

use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::Pid,
};

use crate::support::Replica;

#[test]
fn container_outlives_the_runtime_and_its_exit_code_reaches_the_manager() {
    // What PID 1 is on a real machine: the one that orphans go to.
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let replica = Replica::new("cat /gate; exit 5");
    let gate = replica.path("layer/gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let socket = UnixDatagram::bind(replica.path("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();

    let status = replica.command("run").env("NOTIFY_SOCKET", replica.path("notify")).status().unwrap();
    assert_eq!(status.code(), Some(0));
    let mut buffer = [0u8; 256];
    let length = socket.recv(&mut buffer).unwrap();
    let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
    assert!(message.lines().any(|line| line == "READY=1"), "{message}");
    let pid = message.lines().find_map(|line| line.strip_prefix("MAINPID=")).unwrap().parse().unwrap();

    // It runs, without any process of the runtime, and commands can be run in it; then it ends.
    replica.exec(&["sh", "-c", "echo go > /gate"]).ok();
    assert_eq!(waitpid(Pid::from_raw(pid), None).unwrap(), WaitStatus::Exited(Pid::from_raw(pid), 5));
    replica.cleanup().ok();
    replica.assert_nothing_left();
}
