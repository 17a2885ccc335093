//! One request on the local socket, for the programs beside the daemon. By hand, because the alternative is an HTTP client
//! with a runtime for one question.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// Largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: u64 = 4 << 20;

/// Asks, and waits for the answer: its status and its body. `patience` is for each piece of it; none is for ever.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` where nobody serves the socket, `InvalidData` where the answer is no HTTP, else what
/// the system says.
pub(crate) fn send(
    socket: &Path,
    method: &str,
    path: &str,
    body: &[u8],
    patience: Option<Duration>,
) -> io::Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(patience)?;
    stream.set_write_timeout(patience)?;
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n");
    if !body.is_empty() {
        request += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    request += "\r\n";
    stream.write_all(&[request.as_bytes(), body].concat())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, body.trim().to_owned()))
}
