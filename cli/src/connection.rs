//! From context and environment to one hub: where, by which CA, as whom.

use std::{
    env,
    net::IpAddr,
    path::{Path, PathBuf},
};

use cairn_model::error::chain;
use url::{Host, Url};

use crate::{
    config::{Secret, Store, read_text},
    failure::Failure,
};

/// A hub and how to talk to it.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Ends in `/`.
    pub(crate) hub: Url,
    /// PEM; absent only for plain HTTP on loopback.
    pub(crate) ca: Option<String>,
    pub(crate) token: Secret,
    /// Where the token came from, for messages.
    pub(crate) token_place: String,
    /// Where to keep what is trusted of its artifacts repository; nowhere if only the environment knows this hub.
    pub(crate) trust_folder: Option<PathBuf>,
}

impl Connection {
    /// The hub that `--context`, the environment or the current context names, in this order.
    pub(crate) fn resolve(context: Option<&str>) -> Result<Self, Failure> {
        match (context, set("CAIRN_HUB")) {
            (None, Some(hub)) => Self::from_environment(&hub),
            _ => Self::from_context(context),
        }
    }

    /// All from the environment: a token of a context is never sent to a hub that is not of that context.
    fn from_environment(hub: &str) -> Result<Self, Failure> {
        let hub = parse_hub(hub, "CAIRN_HUB")?;
        let ca = set("CAIRN_CA").map(|path| read_ca(Path::new(&path))).transpose()?;
        if ca.is_none() && hub.scheme() == "https" {
            return Err(Failure::usage("CAIRN_HUB is set, but not by which CA to know it")
                .cure("set CAIRN_CA to the file with the hub's CA certificates"));
        }
        let (token, token_place) = token_of_environment()?.ok_or_else(|| {
            Failure::usage("CAIRN_HUB is set, but no access token")
                .cure("set CAIRN_TOKEN_FILE to a file that holds one")
        })?;
        Ok(Self { hub, ca, token, token_place, trust_folder: None })
    }

    fn from_context(wanted: Option<&str>) -> Result<Self, Failure> {
        let store = Store::of_user()?;
        let config = store.load()?;
        let Some(name) = wanted.or(config.current.as_deref()) else {
            return Err(Failure::usage("no hub is known here: there is no context yet")
                .cure("cairn context add NAME --hub https://… --ca FILE --token-file FILE"));
        };
        let Some(context) = config.contexts.get(name) else {
            let known: Vec<_> = config.contexts.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "there is none".to_owned() } else { known.join(", ") };
            return Err(Failure::usage(format!("there is no context {name} (known: {known})"))
                .cure("cairn context ls, cairn context use NAME"));
        };
        let hub = parse_hub(&context.hub, &store.config_path().display().to_string())?;
        let ca = match set("CAIRN_CA").filter(|_| wanted.is_none()) {
            Some(path) => Some(read_ca(Path::new(&path))?),
            None if hub.scheme() == "https" => Some(read_ca(&store.ca_path(name))?),
            None => None,
        };
        let from_env = if wanted.is_none() { token_of_environment()? } else { None };
        let (token, token_place) = match from_env {
            Some(found) => found,
            None => (store.read_token(name)?, format!("context {name}")),
        };
        Ok(Self { hub, ca, token, token_place, trust_folder: Some(store.trust_path(name)) })
    }
}

/// A variable that is set to something.
fn set(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn token_of_environment() -> Result<Option<(Secret, String)>, Failure> {
    if let Some(path) = set("CAIRN_TOKEN_FILE") {
        let text = read_text(Path::new(&path), "access token of CAIRN_TOKEN_FILE")?;
        return Ok(Some((Secret::parse(&text, &path)?, path)));
    }
    set("CAIRN_TOKEN")
        .map(|text| Ok((Secret::parse(&text, "CAIRN_TOKEN")?, "CAIRN_TOKEN".to_owned())))
        .transpose()
}

/// CA certificates as PEM.
pub(crate) fn read_ca(path: &Path) -> Result<String, Failure> {
    let pem = read_text(path, "hub's CA")?;
    check_ca(&pem).map_err(|cause| {
        Failure::usage(format!("{} holds no CA certificate: {cause}", path.display()))
            .cure("name the file that `cairn-hub init` wrote: it begins with -----BEGIN CERTIFICATE-----")
    })?;
    Ok(pem)
}

fn check_ca(pem: &str) -> Result<(), String> {
    // A private key in that file would be copied about: refuse it rather than ignore it.
    if pem.contains("PRIVATE KEY-----") {
        return Err("it has a private key in it".into());
    }
    let found = reqwest::Certificate::from_pem_bundle(pem.as_bytes()).map_err(|e| chain(&e))?;
    if found.is_empty() { Err("no PEM block CERTIFICATE in it".into()) } else { Ok(()) }
}

/// A hub's URL: https, or http where nobody can listen in.
pub(crate) fn parse_hub(text: &str, place: &str) -> Result<Url, Failure> {
    let wrong = |cause: &str| {
        Failure::usage(format!("the hub's URL in {place} is wrong: {cause}"))
            .cure("write it as https://hub.example:8443")
    };
    let mut url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("it holds a user name or password, which nobody asks for"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("it has a ? or # part"));
    }
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(&url) => {}
        "http" => {
            return Err(wrong("http is only for loopback addresses: the token would be readable on the way"));
        }
        other => return Err(wrong(&format!("{other} is not https"))),
    }
    if url.host().is_none() {
        return Err(wrong("it names no host"));
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

/// A loopback *address*: what `localhost` resolves to is for others to say.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_travels_in_the_clear() {
        for good in
            ["https://hub.example:8443", "https://10.0.0.1", "http://127.0.0.1:80", "http://[::1]:80/x"]
        {
            assert!(parse_hub(good, "--hub").is_ok(), "{good}");
        }
        for bad in [
            "http://hub.example",
            "http://10.0.0.1",
            "http://localhost",
            "ftp://x",
            "hub.example:8443",
            "",
            "https://user:secret@hub.example",
            "https://hub.example/?x",
        ] {
            let failure = parse_hub(bad, "--hub").expect_err(bad);
            assert!(!failure.cause.contains("secret"), "{}", failure.cause);
        }
    }

    #[test]
    fn the_path_of_a_hub_is_a_folder() {
        assert_eq!(parse_hub("https://h/a", "x").unwrap().join("api").unwrap().as_str(), "https://h/a/api");
    }
}
