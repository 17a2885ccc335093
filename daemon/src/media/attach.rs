//! `cairnd media attach`: tells the daemon that a stick is mounted. The unit that mounted it runs this.

use std::{io, path::Path, time::Duration};

use cairn_model::local::{MEDIA_PATH, MediaAttached};

use super::Device;
use crate::local::request;

/// The daemon only takes note of it.
const ANSWER: Duration = Duration::from_secs(30);

/// Tells the daemon on `socket`; true where it took note, false where it is not up: then it finds the stick when it
/// starts.
///
/// # Errors
/// What the daemon answered.
pub fn attach(socket: &Path, device: &Device) -> Result<bool, String> {
    let body =
        serde_json::to_vec(&MediaAttached { device: device.to_string() }).map_err(|e| e.to_string())?;
    match request::send(socket, "POST", MEDIA_PATH, &body, Some(ANSWER)) {
        Ok((204, _)) => Ok(true),
        Ok((status, text)) => Err(format!("cairnd answered {status}: {text}")),
        Err(e) if is_away(&e) => Ok(false),
        Err(e) => Err(format!("cairnd does not answer on {}: {e}", socket.display())),
    }
}

/// No socket, a socket that nobody serves, or one whose daemon ended in between.
fn is_away(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof};
    matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset | BrokenPipe | UnexpectedEof)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixListener,
        thread,
    };

    use super::*;

    fn daemon(answer: &'static str) -> (tempfile::TempDir, thread::JoinHandle<String>) {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let served = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 4096];
            let mut n = 0;
            while !request[..n].ends_with(b"}") {
                n += stream.read(&mut request[n..]).unwrap();
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..n]).into_owned()
        });
        (dir, served)
    }

    #[test]
    fn the_daemon_is_told_and_its_refusal_is_passed_on() {
        let device: Device = "sdb1".parse().unwrap();
        let (dir, served) = daemon("HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(attach(&dir.path().join("s"), &device), Ok(true));
        let request = served.join().unwrap();
        assert!(
            request.starts_with("POST /v1/media ") && request.ends_with(r#"{"device":"sdb1"}"#),
            "{request}"
        );
        let (dir, _served) = daemon("HTTP/1.1 503 Unavailable\r\n\r\ntoo many\n");
        assert_eq!(attach(&dir.path().join("s"), &device), Err("cairnd answered 503: too many".to_owned()));
    }

    #[test]
    fn a_daemon_that_is_not_up_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(attach(&dir.path().join("s"), &"sdb1".parse().unwrap()), Ok(false));
    }
}
