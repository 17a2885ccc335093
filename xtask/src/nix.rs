//! `./x nix`: Nix with what this machine has in place of what it cannot have: programs from `target/bin`, packages from its own
//! Debian mirror. And `./x nix-eval`: the NixOS modules, evaluated with nixpkgs' own `lib`.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{image, process, programs, setup};

/// Nix as root, without a daemon, a cache or users to build as: but in its sandbox, or not at all.
const CONFIG: &str = "experimental-features = nix-command flakes\nsubstitute = false\nbuild-users-group =\n\
                      sandbox = true\nsandbox-fallback = false\nwarn-dirty = false\n";

/// What the flake calls a program that is there already.
const PROGRAMS: [&str; 7] =
    ["cairn", "cairnd", "cairn-hub", "cairn-image", "cairn-oci", "cairn-wasm", "cairn-init"];

/// What `./x nix` asks for.
#[derive(Debug, clap::Args)]
pub(crate) struct Nix {
    /// Arguments of Nix, such as `build .#image` or `run .#vm -- --help`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    arguments: Vec<String>,
}

/// What `./x nix-eval` asks for.
#[derive(Debug, clap::Args)]
pub(crate) struct Eval {
    /// Folder with nixpkgs' lib (its default.nix), or one above it: a checkout of nixpkgs, or of nix-community/nixpkgs.lib.
    #[arg(long)]
    lib: PathBuf,
    /// Write the golden configurations anew instead of comparing them.
    #[arg(long)]
    bless: bool,
}

/// Builds the programs and becomes Nix.
pub(crate) fn run(nix: &Nix) -> Result<()> {
    setup::ensure(setup::Need::Test)?;
    programs::build()?;
    let site = Site::prepare()?;
    // Before `--`, for what follows belongs to the program that Nix runs.
    let own = nix.arguments.iter().position(|argument| argument == "--").unwrap_or(nix.arguments.len());
    let mut command = command();
    command.args(&nix.arguments[..own]).args(site.overrides("")).args(&nix.arguments[own..]);
    Err(command.current_dir(crate::root()).exec()).context("failed to start nix")
}

/// `nix`, configured for this machine.
pub(crate) fn command() -> Command {
    let mut command = Command::new("nix");
    command.env("NIX_CONFIG", CONFIG);
    command
}

/// The flake's inputs that come from this machine.
#[derive(Debug)]
pub(crate) struct Site {
    dir: PathBuf,
}

impl Site {
    /// Puts them below `target/nix`, from programs that were built. Asks for the packages, so that a lock which the mirror
    /// no longer serves is replaced by the one that `./x image` takes.
    pub(crate) fn prepare() -> Result<Self> {
        let dir = crate::target().join("nix");
        let (bin, debian) = (dir.join("programs/bin"), dir.join("debian"));
        for folder in [&bin, &debian] {
            if folder.exists() {
                fs::remove_dir_all(folder)?;
            }
            fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
        }
        for name in PROGRAMS {
            let from = programs::dir().join(name);
            fs::copy(&from, bin.join(name)).with_context(|| format!("failed to copy {}", from.display()))?;
        }
        fs::copy(image::packages()?, debian.join("debian.lock"))?;
        fs::write(debian.join("mirror.json"), process::output(image::tool().arg("mirror"))?)?;
        Ok(Self { dir })
    }

    /// Folder of the input `debian`.
    pub(crate) fn debian(&self) -> PathBuf {
        self.dir.join("debian")
    }

    /// Nix's arguments for the inputs of our flake, which is itself an input where `prefix` says so.
    pub(crate) fn overrides(&self, prefix: &str) -> Vec<String> {
        self.overrides_with(prefix, &self.debian())
    }

    /// The same, with another Debian.
    pub(crate) fn overrides_with(&self, prefix: &str, debian: &Path) -> Vec<String> {
        let input = |name: &str, path: &Path| {
            ["--override-input".to_owned(), format!("{prefix}{name}"), format!("path:{}", path.display())]
        };
        [input("cairn-bin", &self.dir.join("programs")), input("debian", debian)].concat()
    }
}

/// What the modules come to, compared with the goldens; `false` where anything differs.
pub(crate) fn eval(eval: &Eval) -> Result<bool> {
    setup::ensure(setup::Need::Test)?;
    let found = evaluate(&eval.lib)?;
    let goldens = crate::root().join("modules/tests/goldens");
    let mut sound = true;
    for (name, value) in object(&found["goldens"])? {
        let (path, text) =
            (goldens.join(format!("{name}.json")), serde_json::to_string_pretty(value)? + "\n");
        if eval.bless {
            fs::create_dir_all(&goldens)?;
            fs::write(&path, &text)?;
        }
        let same = fs::read_to_string(&path).is_ok_and(|golden| golden == text);
        say(
            &mut sound,
            same,
            &format!("configuration {name}"),
            &format!("differs from {}; --bless writes it anew, if the change is meant", path.display()),
        );
    }
    for (name, case) in object(&found["refused"])? {
        let wanted = case["says"].as_str().context("a case says nothing")?;
        let said: Vec<&str> =
            case["said"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        // Only what is wrong may be named, else nobody would find it.
        let right = matches!(said[..], [one] if one.contains(wanted));
        say(
            &mut sound,
            right,
            &format!("refused: {name}"),
            &format!("should say {wanted:?} and nothing else; said {said:?}"),
        );
    }
    Ok(sound)
}

/// The same for the suite.
pub(crate) fn check(lib: &Path) -> Result<()> {
    let sound = eval(&Eval { lib: lib.to_owned(), bless: false })?;
    ensure!(sound, "the modules come to something else");
    Ok(())
}

/// Prints how one check ended.
fn say(all: &mut bool, passed: bool, what: &str, otherwise: &str) {
    *all &= passed;
    if passed { println!("ok      {what}") } else { println!("FAILED  {what}: {otherwise}") }
}

fn object(value: &Value) -> Result<&serde_json::Map<String, Value>> {
    value.as_object().context("modules/tests gave something else than attributes")
}

/// Runs `modules/tests` with that `lib`.
fn evaluate(lib: &Path) -> Result<Value> {
    let candidates = [lib.to_owned(), lib.join("lib")];
    let Some(lib) = candidates.iter().find(|folder| folder.join("modules.nix").exists()) else {
        bail!(
            "{} holds no nixpkgs lib; give the folder with its modules.nix, or the one above",
            lib.display()
        );
    };
    let lib = fs::canonicalize(lib)?;
    let text = process::output(
        Command::new("nix-instantiate")
            .args(["--eval", "--strict", "--json", "modules/tests", "--arg", "lib"])
            .arg(format!("import {}", lib.display())),
    )?;
    let value: Value = serde_json::from_str(&text).context("nix-instantiate printed no JSON")?;
    ensure!(value["goldens"].is_object(), "modules/tests gave no goldens");
    Ok(value)
}
