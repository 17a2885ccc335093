//! A client of QEMU's machine protocol (QMP): one command at a time, events passed over.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// QMP answers at once or not at all.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A connection to one machine.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Qmp {
    /// Connects and negotiates capabilities.
    pub fn connect(socket: &Path) -> Result<Self> {
        let writer = UnixStream::connect(socket)
            .with_context(|| format!("failed to connect to {}", socket.display()))?;
        writer.set_read_timeout(Some(TIMEOUT))?;
        let mut qmp = Self { reader: BufReader::new(writer.try_clone()?), writer };
        qmp.read()?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns its answer.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.writer, "{request}").with_context(|| format!("failed to send {command}"))?;
        loop {
            let mut answer =
                self.read().with_context(|| format!("failed to read the answer to {command}"))?;
            if let Some(error) = answer.get("error") {
                bail!("{command} was refused: {error}");
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("the machine closed its control socket");
        }
        Ok(serde_json::from_str(&line)?)
    }
}
