//! What an artifact is, told from what it exports.

use anyhow::{Result, bail};
use serde::Serialize;
use wasmtime::{Engine, ExternType, Module, component::Component};

/// How an artifact is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// A WASI preview 1 module with `_start`.
    P1Command,
    /// A component that exports `wasi:cli/run`.
    P2Command,
    /// A component that exports `wasi:http/incoming-handler`.
    HttpProxy,
}

impl Kind {
    /// Of a module.
    pub(crate) fn of_module(module: &Module) -> Result<Self> {
        match module.get_export("_start") {
            Some(ExternType::Func(_)) => Ok(Self::P1Command),
            Some(_) => bail!("the module's export `_start` is no function; build it as a WASI command"),
            None => {
                bail!("the module exports no function `_start`: it is a library; build it as a WASI command")
            }
        }
    }

    /// Of a component.
    pub(crate) fn of_component(component: &Component, engine: &Engine) -> Result<Self> {
        let ty = component.component_type();
        let names: Vec<&str> = ty.exports(engine).map(|(name, _)| name).collect();
        Self::of_exports(&names)
    }

    fn of_exports(names: &[&str]) -> Result<Self> {
        let has = |prefix: &str| names.iter().any(|name| name.starts_with(prefix));
        if has("wasi:http/incoming-handler@0.2.") {
            return Ok(Self::HttpProxy);
        }
        if has("wasi:cli/run@0.2.") {
            return Ok(Self::P2Command);
        }
        if has("wasi:http/handler@") || has("wasi:cli/run@") {
            bail!("the component is built for another WASI version ({}); build it for WASI 0.2", list(names));
        }
        bail!(
            "the component exports neither wasi:http/incoming-handler nor wasi:cli/run (it exports {}); build it for \
             one of these worlds",
            list(names)
        )
    }
}

/// Names for a message: sorted by the file, cut where they would fill the screen.
pub(crate) fn list(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    match names.len() {
        0 => "nothing".to_owned(),
        count if count > SHOWN => format!("{} and {} more", names[..SHOWN].join(", "), count - SHOWN),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_from_exports() {
        let http = "wasi:http/incoming-handler@0.2.0";
        assert_eq!(Kind::of_exports(&[http]).unwrap(), Kind::HttpProxy);
        assert_eq!(Kind::of_exports(&["wasi:cli/run@0.2.6"]).unwrap(), Kind::P2Command);
        assert_eq!(Kind::of_exports(&["wasi:cli/run@0.2.6", http]).unwrap(), Kind::HttpProxy);
    }

    #[test]
    fn refuses_other_worlds_by_name() {
        let error = Kind::of_exports(&["wasi:http/handler@0.3.0"]).unwrap_err().to_string();
        assert!(error.contains("another WASI version (wasi:http/handler@0.3.0)"), "{error}");
        let error = Kind::of_exports(&["my:own/thing"]).unwrap_err().to_string();
        assert!(error.contains("it exports my:own/thing"), "{error}");
        assert!(Kind::of_exports(&[]).unwrap_err().to_string().contains("exports nothing"));
    }
}
