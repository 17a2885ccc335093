//! `cairnd os confirm`: a program of its own that `boot-complete.target` waits for. It asks the daemon whether the OS that
//! runs is kept, and fails where it is given up or where the daemon does not come up at all: the unit then restarts the
//! machine, and the boot loader counts.
//!
//! It fails only while an entry is really being tried and there is another one to fall back to: on an ordinary boot a
//! broken daemon must not make the machine restart for ever.

use std::{path::Path, thread::sleep, time::Duration};

use cairn_model::{error::chain, local::OS_CONFIRM_PATH};
use cairn_ota::{BootControl, BootEntry, Machine, MachineError, SystemdBoot};

use crate::local::request;

/// For so long in all the daemon may be away before it counts as broken: it starts within seconds, and systemd starts it
/// again every 30 s.
const AWAY: Duration = Duration::from_secs(300);
/// Pause between two tries to connect.
const RETRY: Duration = Duration::from_millis(500);
/// What systemd-boot leaves where it has counted a try (systemd-boot(7)): a second source, for a disk that cannot be read.
const COUNTED: &str = "sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// Whether this boot is a try that can fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// Not counted, or nothing to fall back to: nothing may fail.
    Ordinary(&'static str),
    /// It counts.
    Tried,
}

/// Which kind of boot this is, by the entries on the ESP.
pub fn this_boot(root: &Path) -> Boot {
    let machine = match Machine::discover(root) {
        Ok(machine) => machine,
        Err(MachineError::NotAnAppliance { .. }) => return Boot::Ordinary("not a disk with two slots"),
        Err(e) => {
            eprintln!("cairnd: the slots cannot be read: {}", chain(&e));
            let counted = root.join(COUNTED).exists();
            return if counted { Boot::Tried } else { Boot::Ordinary("the boot loader has not counted") };
        }
    };
    let entries = match SystemdBoot::new(&machine.esp, &machine.identity.version).entries() {
        Ok(entries) => entries,
        Err(e) => {
            eprintln!("cairnd: the boot entries cannot be read: {}", chain(&e));
            return Boot::Ordinary("the boot entries cannot be read");
        }
    };
    let running = &machine.identity.version;
    let mine = entries.iter().find(|entry| entry.boot.version == *running);
    let counted = mine.is_some_and(|entry| entry.boot.tries.is_some());
    // With no tries left anywhere the loader takes the newest of all.
    let falls_back = |entry: &BootEntry| entry.is_bootable() || entry.version > *running;
    let other = entries.iter().any(|entry| entry.boot.version != *running && falls_back(&entry.boot));
    match (counted, other) {
        (false, _) => Boot::Ordinary("its entry is kept already"),
        (true, false) => Boot::Ordinary("there is nothing to fall back to"),
        (true, true) => Boot::Tried,
    }
}

/// Waits for the daemon's verdict on `socket`; `Err` is why the OS is given up.
pub fn wait_for_verdict(socket: &Path) -> Result<(), String> {
    wait(socket, AWAY, RETRY)
}

fn wait(socket: &Path, patience: Duration, retry: Duration) -> Result<(), String> {
    let mut away = Duration::ZERO;
    loop {
        // It may take as long as the trial does.
        let problem = match request::send(socket, "GET", OS_CONFIRM_PATH, b"", None) {
            Ok((200, _)) => return Ok(()),
            Ok((409, reason)) => return Err(reason),
            Ok((status, text)) => format!("it answers {status}: {text}"),
            Err(e) => e.to_string(),
        };
        // While it is there it has a deadline of its own, which outlives its restarts: that time is not counted.
        sleep(retry);
        away += retry;
        if away >= patience {
            let seconds = patience.as_secs();
            return Err(format!("cairnd did not answer on {} for {seconds} s: {problem}", socket.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixListener,
        thread,
    };

    use super::*;

    const QUICK: Duration = Duration::from_millis(1);

    /// A daemon that gives these answers, one a connection.
    fn daemon(answers: &[&'static str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let answers = answers.to_vec();
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1024];
                let n = stream.read(&mut request).unwrap();
                assert!(request[..n].starts_with(b"GET /v1/os/confirm "));
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        dir
    }

    #[test]
    fn the_daemons_word_is_passed_on() {
        let kept = daemon(&["HTTP/1.1 200 OK\r\n\r\n"]);
        assert_eq!(wait(&kept.path().join("s"), AWAY, QUICK), Ok(()));
        let given_up = daemon(&["HTTP/1.1 409 Conflict\r\n\r\nthe hub has not answered\n"]);
        assert_eq!(wait(&given_up.path().join("s"), AWAY, QUICK), Err("the hub has not answered".to_owned()));
    }

    #[test]
    fn a_daemon_that_is_killed_meanwhile_is_asked_again() {
        let dir = daemon(&["", "HTTP/1.1 500 Error\r\n\r\nx", "HTTP/1.1 2", "HTTP/1.1 200 OK\r\n\r\n"]);
        assert_eq!(wait(&dir.path().join("s"), AWAY, QUICK), Ok(()));
    }

    #[test]
    fn a_daemon_that_never_comes_up_is_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let error = wait(&dir.path().join("s"), QUICK * 20, QUICK).unwrap_err();
        assert!(error.contains("cairnd did not answer"), "{error}");
    }

    #[test]
    fn a_poweroff_while_an_os_is_tried_is_no_failure_of_it() {
        // A oneshot that is stopped by its signal counts as failed otherwise, and its FailureAction= is a restart.
        let unit = include_str!("../../../dist/node/usr/lib/systemd/system/cairn-os-confirm.service");
        let lines: Vec<&str> = unit.lines().collect();
        assert!(lines.contains(&"FailureAction=reboot") && lines.contains(&"Type=oneshot"));
        assert!(lines.contains(&"SuccessExitStatus=SIGTERM"));
    }

    #[test]
    fn a_machine_that_is_no_appliance_fails_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(this_boot(dir.path()), Boot::Ordinary(_)));
    }
}
