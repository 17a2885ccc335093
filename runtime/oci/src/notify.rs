//! Telling systemd which process is the service now.

use std::{
    io::{IoSlice, PipeWriter},
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socket},
    unistd::Pid,
};
use sd_notify::NotifyState;

/// How long systemd may take to read a message; its own default for the same question.
const BARRIER_DEADLINE: Duration = Duration::from_secs(5);

/// Whether a service manager wants to hear from us.
pub(crate) fn is_supervised() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Makes `init` the unit's main process and the unit active, and returns when systemd has taken that in. systemd
/// accepts a main process that it did not start as long as it is in the unit's cgroup.
pub(crate) fn hand_over(init: Pid) -> Result<()> {
    let pid = u32::try_from(init.as_raw()).context("the container's process id is negative")?;
    sd_notify::notify(&[NotifyState::MainPid(pid), NotifyState::Ready])
        .and_then(|()| std::io::pipe())
        .map_err(Into::into)
        .and_then(|(reader, writer)| {
            send_barrier(writer)?;
            let timeout = PollTimeout::try_from(BARRIER_DEADLINE).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(reader.as_fd(), PollFlags::empty())], timeout)? {
                0 => bail!("it did not read the message within {BARRIER_DEADLINE:?}"),
                _ => Ok(()),
            }
        })
        .context(
            "failed to tell systemd about the container; the unit needs Type=notify and NotifyAccess=all",
        )
}

/// Sends the end of a pipe that systemd closes when it has worked off all messages before (`sd_notify_barrier(3)`).
fn send_barrier(writer: PipeWriter) -> Result<()> {
    let address = std::env::var("NOTIFY_SOCKET").context("NOTIFY_SOCKET is not set")?;
    let address = match address.strip_prefix('@') {
        Some(name) => UnixAddr::new_abstract(name.as_bytes()),
        None => UnixAddr::new(address.as_str()),
    };
    let address = address.context("NOTIFY_SOCKET is no socket address")?;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let message = [IoSlice::new(b"BARRIER=1")];
    let descriptors = [writer.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    sendmsg(socket.as_raw_fd(), &message, &rights, MsgFlags::MSG_NOSIGNAL, Some(&address))?;
    Ok(())
}

/// Asks the service manager, if there is one, for time to clean up: what it gives otherwise is the time that the container
/// has for its own stop, which may be a second. Without an answer the cleanup does what it can.
pub(crate) fn ask_for_time(time: Duration) {
    let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    if let Err(error) = sd_notify::notify(&[NotifyState::ExtendTimeoutUsec(micros)]) {
        eprintln!("cairn-oci: warning: failed to ask for time to clean up: {error}");
    }
}

/// Tells the service manager, if there is one, that the workload runs below us.
pub(crate) fn ready() -> Result<()> {
    sd_notify::notify(&[NotifyState::Ready]).context("failed to tell systemd that the container runs")
}
