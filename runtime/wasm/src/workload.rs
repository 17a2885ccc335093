//! Reads and checks the workload file: all of it is valid before anything is opened or bound.

use std::{fs::File, io::Read, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use cairn_model::workload::{Mount, WasmWorkload};

use crate::guest::{Grants, Preopen};

/// A workload file is a few hundred bytes; a large environment makes it some hundred kilobytes.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// A checked workload.
#[derive(Debug)]
pub(crate) struct Workload {
    /// The precompiled artifact.
    pub(crate) module: std::path::PathBuf,
    /// Where to serve.
    pub(crate) listen: Vec<SocketAddr>,
    /// Longest time one request may take.
    pub(crate) request_timeout: Option<Duration>,
    /// What each guest may see and use.
    pub(crate) grants: Grants,
}

/// Reads the file.
pub(crate) fn load(path: &Path) -> Result<Workload> {
    let what = || format!("failed to read workload {}", path.display());
    let mut text = Vec::new();
    File::open(path)
        .with_context(what)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut text)
        .with_context(what)?;
    ensure!(
        text.len() as u64 <= MAX_FILE_BYTES,
        "workload {} is larger than {MAX_FILE_BYTES} bytes; shorten its environment or arguments",
        path.display()
    );
    let workload: WasmWorkload =
        serde_json::from_slice(&text).with_context(|| format!("workload {} is not valid", path.display()))?;
    check(workload).with_context(|| format!("workload {} is not valid", path.display()))
}

fn check(workload: WasmWorkload) -> Result<Workload> {
    let mut args = workload.args;
    if args.is_empty() {
        args.push(workload.id);
    }
    let env = workload.env.iter().map(|pair| variable(pair)).collect::<Result<Vec<_>>>()?;
    let preopens = workload.preopens.into_iter().map(preopen).collect::<Result<Vec<_>>>()?;
    let listen = workload.listen.iter().map(|text| address(text)).collect::<Result<Vec<_>>>()?;
    let request_timeout =
        (workload.request_timeout_ms > 0).then(|| Duration::from_millis(workload.request_timeout_ms));
    let memory_bytes = match workload.memory_bytes {
        0 => usize::MAX,
        bytes => usize::try_from(bytes).unwrap_or(usize::MAX),
    };
    let grants = Grants { args, env, preopens, memory_bytes, network: workload.network };
    Ok(Workload { module: workload.module, listen, request_timeout, grants })
}

fn variable(pair: &str) -> Result<(String, String)> {
    match pair.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        // The value may be a secret: only the name is repeated.
        Some(_) => bail!("an environment variable has no name; write NAME=value"),
        None => bail!("environment variable `{pair}` has no `=`; write NAME=value"),
    }
}

fn preopen(mount: Mount) -> Result<Preopen> {
    match mount {
        Mount::Bind { source, target, read_only } => {
            let Some(guest) = target.to_str() else {
                bail!("folder {} has a name that is not UTF-8; rename it", target.display())
            };
            ensure!(target.is_absolute(), "folder {guest} is not absolute; write it from /");
            Ok(Preopen { host: source, guest: guest.to_owned(), read_only })
        }
        Mount::Tmpfs { target, .. } => {
            bail!("a tmpfs at {} is for containers only; use a volume", target.display())
        }
    }
}

fn address(text: &str) -> Result<SocketAddr> {
    text.parse().with_context(|| format!("`{text}` is no address to listen on; write ip:port"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn checked(change: impl FnOnce(&mut Value)) -> Result<Workload> {
        let mut value = json!({
            "id": "cairn-demo-hello-1", "module": "/m", "args": [], "env": ["A=b=c"],
            "preopens": [{"type": "bind", "source": "/s", "target": "/t", "read_only": true}],
            "listen": ["127.0.0.1:80"], "memory_bytes": 0, "request_timeout_ms": 0, "network": false
        });
        change(&mut value);
        check(serde_json::from_value(value)?)
    }

    #[test]
    fn zero_is_no_limit_and_no_args_are_the_id() {
        let workload = checked(|_| {}).unwrap();
        assert_eq!(workload.grants.memory_bytes, usize::MAX);
        assert_eq!(workload.request_timeout, None);
        assert_eq!(workload.grants.args, ["cairn-demo-hello-1"]);
        assert_eq!(workload.grants.env, [("A".to_owned(), "b=c".to_owned())]);
    }

    #[test]
    fn refuses_what_it_cannot_honour() {
        type Case = (fn(&mut Value), &'static str);
        let cases: [Case; 6] = [
            (|v| v["env"] = json!(["SECRET"]), "no `=`"),
            (|v| v["env"] = json!(["=value"]), "no name"),
            (|v| v["listen"] = json!(["localhost:80"]), "write ip:port"),
            (|v| v["preopens"][0]["target"] = json!("data"), "not absolute"),
            (|v| v["preopens"] = json!([{"type": "tmpfs", "target": "/t"}]), "containers only"),
            (|v| v["surprise"] = json!(1), "unknown field `surprise`"),
        ];
        for (change, expected) in cases {
            let error = format!("{:#}", checked(change).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
