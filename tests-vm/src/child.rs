//! Programs that must not be left behind: they end with the thread that started them, also where that is killed and has
//! no time to clean up.

use std::{ffi::OsStr, process::Command};

/// A command line for `program`. `setpriv` (util-linux) asks the kernel for a SIGTERM when the parent dies, and becomes
/// the program: what is spawned has the program's own process id. To ask for it in this process would take unsafe code.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::process::ExitStatusExt, thread, time::Duration};

    use super::command;
    use crate::wait;

    #[test]
    fn ends_with_the_thread_that_started_it() {
        let start = || {
            let child = command("sleep").arg("600").spawn().unwrap();
            let name = format!("/proc/{}/comm", child.id());
            wait::until("setpriv to become the program", Duration::from_secs(60), || {
                Ok((fs::read_to_string(&name)? == "sleep\n").then_some(()))
            })
            .unwrap();
            child
        };
        let status = thread::spawn(start).join().unwrap().wait().unwrap();
        assert_eq!(status.signal(), Some(15), "{status}");
    }
}
