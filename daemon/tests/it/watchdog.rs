//! What systemd hears of a daemon, on the socket that it would listen on.

use std::{
    os::unix::net::UnixDatagram,
    time::{Duration, Instant},
};

use super::{DEADLINE, Daemon, cairnd, root};

/// The watchdog's time in this test.
const WATCHDOG: Duration = Duration::from_millis(900);

fn next(socket: &UnixDatagram) -> String {
    let mut message = [0; 4096];
    let length = socket.recv(&mut message).expect("a message in time");
    String::from_utf8_lossy(&message[..length]).into_owned()
}

#[test]
fn systemd_is_told_when_the_daemon_is_ready_how_it_is_and_that_it_lives() {
    let root = root("");
    let path = root.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut command = cairnd(root.path());
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    let mut daemon = Daemon(command.arg("run").spawn().unwrap());
    let (mut heard, mut fed) = (Vec::new(), Vec::new());
    while fed.len() < 6 || !heard.iter().any(|message: &String| message.contains("STATUS=Unconfigured")) {
        let message = next(&socket);
        if message.contains("WATCHDOG=1") {
            fed.push(Instant::now());
        }
        heard.push(message);
    }
    assert_eq!(heard.iter().filter(|message| message.contains("READY=1")).count(), 1, "{heard:?}");
    let longest = fed.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest < WATCHDOG, "fed in time, every time: {longest:?}");

    let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.0.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    while !next(&socket).contains("STOPPING=1") {}
    assert!(daemon.wait().success());
}
