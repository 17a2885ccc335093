//! A root shell on the node over virtio-serial. Only test images have its other end.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// What a script left behind.
#[derive(Debug)]
pub struct Output {
    /// Exit code of the last command.
    pub code: i32,
    /// Standard output and error.
    pub text: String,
}

/// The connection. QEMU must have been started with the socket as a server.
#[derive(Debug)]
pub struct Shell {
    stream: UnixStream,
    scripts: u64,
}

impl Shell {
    /// Connects to the port's socket; the node may still be booting.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("failed to connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(Self { stream, scripts: 0 })
    }

    /// Sends `script` without waiting for its end.
    pub fn send(&mut self, script: &str) -> Result<()> {
        self.stream.write_all(format!("{script}\n").as_bytes()).context("failed to send a script to the node")
    }

    /// Runs `script` and waits for its end. The text that marks the end is made so that the echo of the script itself
    /// can't be taken for it.
    pub fn run(&mut self, script: &str, deadline: Duration) -> Result<Output> {
        self.scripts += 1;
        let (head, tail) = ("cairn", format!("end{}", self.scripts));
        let request = format!("{{ {script}\n}} 2>&1 </dev/null; echo {head}''{tail} $?\n");
        self.stream.write_all(request.as_bytes()).context("failed to send a script to the node")?;
        let marker = format!("{head}{tail} ");
        let start = Instant::now();
        let mut seen = Vec::new();
        let mut chunk = [0_u8; 16384];
        while start.elapsed() < deadline {
            match self.stream.read(&mut chunk) {
                Ok(0) => bail!("the node closed the test shell"),
                Ok(n) => seen.extend_from_slice(&chunk[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Err(e) => return Err(e).context("failed to read from the test shell"),
            }
            if let Some(output) = parse(&String::from_utf8_lossy(&seen), &marker) {
                return Ok(output);
            }
        }
        bail!(
            "no end of `{script}` within {} s; so far: {}",
            deadline.as_secs(),
            String::from_utf8_lossy(&seen)
        )
    }
}

/// The output before `marker`, and the code behind it, once a whole line with it has come.
fn parse(seen: &str, marker: &str) -> Option<Output> {
    let (text, rest) = seen.rsplit_once(marker)?;
    let (code, _) = rest.split_once('\n')?;
    Some(Output { code: code.trim().parse().ok()?, text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn output_is_what_stands_before_the_marker() {
        let output = parse("a\nb\ncairnend1 7\n", "cairnend1 ").unwrap();
        assert_eq!((output.code, output.text.as_str()), (7, "a\nb\n"));
    }

    #[test]
    fn half_a_marker_is_not_the_end() {
        assert!(parse("a\ncairnend1 7", "cairnend1 ").is_none());
        assert!(parse("a\ncairnend", "cairnend1 ").is_none());
    }
}
