//! Figures of the two runtimes on this machine, without a node.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Row;
use crate::{examples, process, programs};

/// `cairn-oci bench` starts and ends the same bundle in turns with crun and runc.
pub(super) fn containers() -> Result<Vec<Row>> {
    rows(Command::new(programs::dir().join("cairn-oci")).arg("bench"))
}

/// `cairn-wasm bench` loads and calls the demo's component.
pub(super) fn components() -> Result<Vec<Row>> {
    rows(
        Command::new(programs::dir().join("cairn-wasm"))
            .arg("bench")
            .arg(examples::dir().join("hello-http.wasm")),
    )
}

/// The runtimes print a JSON array of rows.
fn rows(command: &mut Command) -> Result<Vec<Row>> {
    let text = process::output(command)?;
    let values: Vec<Value> =
        serde_json::from_str(&text).with_context(|| format!("not a list of rows: {text}"))?;
    values.iter().map(row).collect()
}

fn row(value: &Value) -> Result<Row> {
    let number = |key: &str| value[key].as_f64().with_context(|| format!("no {key} in {value}"));
    Ok(Row {
        what: value["what"].as_str().unwrap_or_default().to_owned(),
        figure: number("figure")?,
        baseline: number("baseline")?,
        unit: "ms",
        against: if value["against"] == "runc" {
            "runc"
        } else if value["against"] == "crun" {
            "crun"
        } else {
            "compiling first"
        },
    })
}
