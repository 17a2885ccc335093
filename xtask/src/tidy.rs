//! What a program can hold of the house style and no linter does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};
use regex::Regex;
use serde_json::Value;

use crate::process;

/// Longest source file, in lines.
const MAX_LINES: usize = 600;

/// Longest flake, in lines: it only calls `nix/`.
const MAX_FLAKE_LINES: usize = 120;

/// The crate graph as it should be.
const GRAPH: &str = "docs/crate-graph.txt";

/// All complaints, one a line; none is good. With `bless` the crate graph is written anew.
pub(crate) fn check(bless: bool) -> Result<Vec<String>> {
    let files = tracked()?;
    let mut complaints = Vec::new();
    for file in files.iter().filter(|f| f.ends_with(".rs")) {
        let text =
            fs::read_to_string(crate::root().join(file)).with_context(|| format!("failed to read {file}"))?;
        complaints.extend(source(file, &text));
    }
    let flake = fs::read_to_string(crate::root().join("flake.nix")).unwrap_or_default();
    if flake.lines().count() > MAX_FLAKE_LINES {
        complaints.push(format!("flake.nix: more than {MAX_FLAKE_LINES} lines; move some to nix/"));
    }
    complaints.extend(architecture(&files)?);
    complaints.extend(graph(bless)?);
    Ok(complaints)
}

fn tracked() -> Result<Vec<String>> {
    let listed = process::output(Command::new("git").args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    Ok(listed.lines().filter(|f| crate::root().join(f).is_file()).map(str::to_owned).collect())
}

fn source(file: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if !text.starts_with("//!") {
        complaints.push(format!("{file}:1: the first line does not say what the file is for (//!)"));
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        complaints.push(format!("{file}: {lines} lines; split it by noun below {MAX_LINES}"));
    }
    if file.ends_with("/mod.rs") {
        complaints.push(format!("{file}: name it after its folder, beside it"));
    }
    let marks = ["todo!", "unimplemented!", "dbg!", concat!("FIX", "ME"), "#[ignore"];
    for (number, line) in text.lines().enumerate() {
        if !file.starts_with("xtask/") && marks.iter().any(|m| line.contains(m)) {
            complaints.push(format!("{file}:{}: unfinished: {}", number + 1, line.trim()));
        }
    }
    complaints
}

/// Every path that `ARCHITECTURE.md` and the README name in backquotes must exist.
fn architecture(files: &[String]) -> Result<Vec<String>> {
    let path = Regex::new(r"`([A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*/?)`")?;
    let known: BTreeSet<&str> = files.iter().map(String::as_str).collect();
    let top: BTreeSet<&str> = known.iter().filter_map(|f| f.split('/').next()).collect();
    let mut complaints = Vec::new();
    for document in ["ARCHITECTURE.md", "README.md", "CONTRIBUTING.md"] {
        let text = fs::read_to_string(crate::root().join(document))
            .with_context(|| format!("failed to read {document}"))?;
        for (number, line) in text.lines().enumerate() {
            for found in path.captures_iter(line) {
                let named = &found[1];
                let first = named.split('/').next().unwrap_or_default();
                if named.contains('/') && top.contains(first) && !crate::root().join(named).exists() {
                    complaints.push(format!("{document}:{}: no such path: {named}", number + 1));
                }
            }
        }
    }
    Ok(complaints)
}

/// Who of us imports whom, and who owns the heavy crates, as a golden file: a new edge is a decision that shows in a
/// review.
fn graph(bless: bool) -> Result<Vec<String>> {
    let metadata =
        process::output(Command::new("cargo").args(["metadata", "--format-version=1", "--no-deps"]))?;
    let actual = render_graph(&serde_json::from_str(&metadata)?);
    let golden = crate::root().join(GRAPH);
    if bless {
        fs::create_dir_all(golden.parent().unwrap_or(Path::new(".")))?;
        fs::write(&golden, &actual)?;
        return Ok(Vec::new());
    }
    if fs::read_to_string(&golden).unwrap_or_default() == actual {
        return Ok(Vec::new());
    }
    Ok(vec![format!(
        "{GRAPH} differs from the crates' manifests:\n{actual}\nif that is meant: ./x tidy --bless"
    )])
}

fn render_graph(metadata: &Value) -> String {
    /// Crates with one owner each.
    const HEAVY: &[&str] =
        &["axum", "libcontainer", "object_store", "sigstore-tuf", "sqlx", "tough", "wasmtime", "zbus"];
    let empty = Vec::new();
    let packages = metadata["packages"].as_array().unwrap_or(&empty);
    let ours: BTreeSet<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages {
        let dependencies = package["dependencies"].as_array().unwrap_or(&empty);
        let named = dependencies.iter().filter(|d| d["kind"].is_null()).filter_map(|d| d["name"].as_str());
        edges
            .entry(package["name"].as_str().unwrap_or_default())
            .or_default()
            .extend(named.filter(|d| ours.contains(d) || HEAVY.contains(d)));
    }
    edges
        .iter()
        .map(|(from, to)| format!("{from}: {}\n", to.iter().copied().collect::<Vec<_>>().join(" ")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complains_of_what_the_house_does_not_want() {
        assert!(source("a/b.rs", "//! What it is for.\n").is_empty());
        assert_eq!(source("a/b.rs", "use x;\n").len(), 1);
        assert_eq!(source("a/mod.rs", "//! x\n").len(), 1);
        assert_eq!(source("a/b.rs", &format!("//! x\n{}", "\n".repeat(MAX_LINES))).len(), 1);
        assert_eq!(source("a/b.rs", "//! x\nfn f() { todo!() }\n").len(), 1);
    }

    #[test]
    fn the_graph_names_ours_and_the_heavy_ones_only() {
        let metadata = serde_json::json!({ "packages": [
            { "name": "a", "dependencies": [{ "name": "b", "kind": null }, { "name": "serde", "kind": null }] },
            { "name": "b", "dependencies": [{ "name": "zbus", "kind": null }, { "name": "a", "kind": "dev" }] },
        ]});
        assert_eq!(render_graph(&metadata), "a: b\nb: zbus\n");
    }
}
