//! The flake: every file parsed, formatted and free of dead code; what evaluates without nixpkgs, evaluated; the image,
//! built in the sandbox and compared with the one that is built without Nix; what must be refused, refused.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Tally;
use crate::{
    image::{self, Flavour},
    nix::{self, Site},
    process, programs,
};

/// Stands for nixpkgs.
const NO_NIXPKGS: [&str; 3] = ["--override-input", "nixpkgs", "path:./nix/no-nixpkgs"];

/// What a machine that has nixpkgs' `lib` names it by.
const LIB: &str = "CAIRN_NIXPKGS_LIB";

pub(super) fn run() -> Result<Tally> {
    let mut tally = files()?;
    programs::build()?;
    image::build(Flavour::Production)?;
    let site = Site::prepare()?;
    let checks: [(&str, Result<()>); 7] = [
        ("flake show", shows(&site)),
        (".#image is what ./x image builds", same_image(&site)),
        ("templates.default builds", template(&site)),
        ("apps start", apps(&site)),
        ("options that cannot work are refused", refused_options()),
        (
            "a package that is gone is refused",
            refused_lock(&site, "pool/main/n/none/none_1_all.deb", None, "renew-debian.lock"),
        ),
        ("a package with other bytes is refused", refused_lock(&site, "", Some("0"), "hash mismatch")),
    ];
    for (what, result) in checks {
        count(&mut tally, what, &result);
    }
    match std::env::var_os(LIB) {
        Some(lib) => {
            let sound = nix::check(Path::new(&lib));
            count(&mut tally, "modules", &sound);
        }
        None => eprintln!(
            "  not run: ./x nix-eval (the modules), which needs nixpkgs' lib: name its folder in {LIB}"
        ),
    }
    eprintln!(
        "  not run: the programs by rustPlatform, image-nixos, nix flake check: they need nixpkgs, which CI does not reach"
    );
    Ok(tally)
}

fn count(tally: &mut Tally, what: &str, result: &Result<()>) {
    if let Err(error) = result {
        eprintln!("  {what} … FAILED: {error:#}");
    }
    tally.passed += u64::from(result.is_ok());
    tally.failed += u64::from(result.is_err());
}

/// Each by itself: what parses may still not evaluate.
fn files() -> Result<Tally> {
    let listed = process::output(Command::new("git").args(["ls-files", "*.nix"]))?;
    let files: Vec<_> = listed.lines().collect();
    ensure!(!files.is_empty(), "there is no Nix file to parse");
    let deadnix = deadnix()?;
    let mut tally = Tally::default();
    for file in files {
        let checked = process::output(Command::new("nix-instantiate").args(["--parse", file]))
            .and_then(|_| process::output(Command::new(&deadnix).args(["--fail", file])))
            .and_then(|_| is_formatted(file));
        count(&mut tally, file, &checked);
    }
    Ok(tally)
}

fn is_formatted(file: &str) -> Result<()> {
    let text =
        fs::read_to_string(crate::root().join(file)).with_context(|| format!("failed to read {file}"))?;
    let (_, formatted) = alejandra::format::in_memory(file.to_owned(), text.clone());
    ensure!(formatted == text, "it is not formatted as alejandra does it");
    Ok(())
}

/// The linter is a program of its own: it is built once into `target/tools`.
fn deadnix() -> Result<PathBuf> {
    let root = crate::target().join("tools");
    let program = root.join("bin/deadnix");
    if !program.exists() {
        process::step(
            "building deadnix",
            "deadnix",
            Command::new("cargo")
                .args(["install", "--quiet", "--locked", "--version", "1.3.1", "deadnix", "--root"])
                .arg(&root),
        )?;
    }
    Ok(program)
}

/// Everything that is not left out without nixpkgs evaluates.
fn shows(site: &Site) -> Result<()> {
    let mut command = nix::command();
    command.args(["flake", "show", "--json"]).args(NO_NIXPKGS).args(site.overrides(""));
    let shown: Value =
        serde_json::from_str(&process::output(&mut command)?).context("flake show printed no JSON")?;
    for path in [
        "/packages/x86_64-linux/image",
        "/packages/x86_64-linux/cairnd",
        "/apps/x86_64-linux/vm",
        "/templates/default",
    ] {
        ensure!(shown.pointer(path).is_some(), "there is no {path} in {shown}");
    }
    Ok(())
}

/// nixpkgs is not overridden: nothing may ask for it.
fn same_image(site: &Site) -> Result<()> {
    let link = crate::target().join("nix/image");
    process::step(
        "building the image with Nix",
        "nix-image",
        nix::command().args(["build", ".#image", "--out-link"]).arg(&link).args(site.overrides("")),
    )?;
    process::output(Command::new("diff").arg("-r").arg(&link).arg(image::dir(Flavour::Production)))
        .map(drop)
        .context("Nix built another image than ./x image; if git does not track all of dist/, add it: Nix sees nothing else")
}

/// A user's own flake, on top of ours.
fn template(site: &Site) -> Result<()> {
    let (copy, link) = (crate::target().join("nix/template"), crate::target().join("nix/template-image"));
    if copy.exists() {
        fs::remove_dir_all(&copy)?;
    }
    process::output(Command::new("cp").args(["-r", "templates/appliance"]).arg(&copy))?;
    process::step(
        "building the template's image with Nix",
        "nix-template",
        nix::command()
            .args(["build", &format!("path:{}#image", copy.display()), "--out-link"])
            .arg(&link)
            .args(["--override-input", "cairn", &format!("git+file://{}", crate::root().display())])
            .args(site.overrides("cairn/")),
    )?;
    let manifest: Value = serde_json::from_slice(&fs::read(link.join("manifest.json"))?)?;
    ensure!(
        manifest["compatible"] == "acme-box" && manifest["version"] == "1.0.0",
        "it is not what the template says: {manifest}"
    );
    Ok(())
}

/// Each finds what it uses beside itself.
fn apps(site: &Site) -> Result<()> {
    for (app, argument, says) in [("vm", "--help", "throw-away disk"), ("flash", "--help", "--token-file")] {
        let mut command = nix::command();
        command.args(["run", &format!(".#{app}")]).args(site.overrides("")).args(["--", argument]);
        let said = process::output(&mut command)?;
        ensure!(said.contains(says), "{app} should have said {says:?}: {said}");
    }
    Ok(())
}

/// Each case of `nix/tests/refused.nix` fails, and says what it should.
fn refused_options() -> Result<()> {
    let file = "nix/tests/refused.nix";
    let ask = |attribute: &str| {
        Command::new("nix-instantiate")
            .args(["--eval", "--strict", "--json", file, "-A", attribute])
            .current_dir(crate::root())
            .output()
    };
    let listed = ask("says")?;
    let cases: Value = serde_json::from_slice(&listed.stdout)
        .with_context(|| String::from_utf8_lossy(&listed.stderr).into_owned())?;
    let cases = cases.as_object().context("no cases")?;
    ensure!(cases.len() > 5, "only {} cases", cases.len());
    for (name, says) in cases {
        let (output, says) = (ask(&format!("value.{name}"))?, says.as_str().context("a text")?);
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "{name} was not refused");
        ensure!(said.contains(says), "{name} should have said {says:?}; said {said}");
    }
    let sound = ask("sound")?;
    ensure!(sound.status.success(), "sound options are refused: {}", String::from_utf8_lossy(&sound.stderr));
    Ok(())
}

/// Builds from a lock with its smallest package changed: another path, or a hash that begins otherwise.
fn refused_lock(site: &Site, path: &str, hash: Option<&str>, says: &str) -> Result<()> {
    let folder = crate::target().join("nix/refused");
    fs::create_dir_all(&folder)?;
    fs::copy(site.debian().join("mirror.json"), folder.join("mirror.json"))?;
    let mut lock: toml::Table = toml::from_str(&fs::read_to_string(site.debian().join("debian.lock"))?)?;
    let packages = lock["root"].as_array_mut().context("root is a list")?;
    packages.sort_by_key(|package| package["size"].as_integer());
    let smallest = packages.first_mut().and_then(toml::Value::as_table_mut).context("root is empty")?;
    if let Some(hash) = hash {
        let old = smallest["sha256"].as_str().context("a hash")?.to_owned();
        let first = if old.starts_with(hash) { "1" } else { hash };
        smallest.insert("sha256".into(), format!("{first}{}", &old[1..]).into());
    } else {
        smallest.insert("path".into(), path.into());
        // Another one than any store has.
        smallest.insert("sha256".into(), "0".repeat(64).into());
    }
    fs::write(folder.join("debian.lock"), toml::to_string(&lock)?)?;
    let mut command = nix::command();
    command.args(["build", ".#image", "--no-link"]).args(site.overrides_with("", &folder));
    match process::output(&mut command) {
        Ok(_) => bail!("it was built"),
        Err(error) => ensure!(format!("{error:#}").contains(says), "it should have said {says:?}: {error:#}"),
    }
    Ok(())
}
