//! Figures of the flake: how long it takes to evaluate, and what the image costs when Nix builds it.

use std::{fs, path::Path, process::Command, time::Instant};

use anyhow::{Context, Result};

use super::{Row, median};
use crate::{
    image::{self, Flavour},
    nix::{self, Site},
    process,
};

/// Times that an evaluation is timed.
const ROUNDS: usize = 7;

pub(super) fn measure() -> Result<Vec<Row>> {
    image::build(Flavour::Production)?;
    let site = Site::prepare()?;
    // A store of its own, so that nothing is there already; it is removed at the end.
    let store = crate::target().join("nix/bench-store");
    remove(&store)?;
    let own = seconds(image::command(
        Flavour::Production,
        image::VERSION,
        &site.debian().join("debian.lock"),
        &crate::programs::dir(),
        &fresh(&crate::target().join("nix/bench-image"))?,
    ))?;
    let mut rows = vec![evaluation(&site)?];
    let mut row = |what: &str, figure: f64, baseline: f64, against: &'static str| {
        rows.push(Row { what: what.to_owned(), figure, baseline, unit: "s", against });
    };
    let build = |extra: &[&str]| -> Result<f64> {
        let mut command = nix::command();
        command.args(["build", ".#image", "--no-link", "--store"]).arg(&store).args(extra);
        command.args(site.overrides(""));
        seconds(command)
    };
    let cold = build(&[])?;
    let fetch = fresh(&crate::target().join("nix/bench-debs"))?;
    let mut command = image::tool();
    command.args(["fetch", "--lock"]).arg(site.debian().join("debian.lock")).arg("--into").arg(&fetch);
    let fetched = seconds(command)?;
    row("nix build .#image, empty store", cold, fetched + own, "cairn-image fetch and build, empty folder");
    let again = build(&["--rebuild"])?;
    row("nix build .#image, packages there", again, own, "cairn-image build, as in ./x image");
    row("nix build .#image, nothing to do", build(&[])?, own, "the same");
    for folder in [store, fetch, crate::target().join("nix/bench-image")] {
        remove(&folder)?;
    }
    Ok(rows)
}

/// From the command line to the image's derivation: all options of the appliance, and every package of the lock.
fn evaluation(site: &Site) -> Result<Row> {
    let timed = |arguments: &[&str]| -> Result<f64> {
        let mut times = Vec::new();
        // The first round copies the inputs into the store and is not counted.
        for round in 0..=ROUNDS {
            let mut command = nix::command();
            command.args(["eval", "--no-eval-cache"]).args(arguments).args(site.overrides(""));
            let took = seconds(command)?;
            if round > 0 {
                times.push(took * 1000.0);
            }
        }
        Ok(median(times))
    };
    Ok(Row {
        what: format!("evaluation of .#image, median of {ROUNDS}"),
        figure: timed(&[".#packages.x86_64-linux.image.drvPath"])?,
        baseline: timed(&[".#templates.default.description"])?,
        unit: "ms",
        against: "evaluating a text of the same flake: inputs are hashed for both",
    })
}

fn seconds(mut command: Command) -> Result<f64> {
    let start = Instant::now();
    process::quiet("bench-nix", &mut command)?;
    Ok(start.elapsed().as_secs_f64())
}

/// The path, with nothing there.
fn fresh(path: &Path) -> Result<std::path::PathBuf> {
    remove(path)?;
    Ok(path.to_owned())
}

/// A store's folders are read-only.
fn remove(path: &Path) -> Result<()> {
    if path.exists() {
        process::output(Command::new("chmod").args(["-R", "u+w"]).arg(path))?;
        fs::remove_dir_all(path).with_context(|| format!("failed to remove {}", path.display()))?;
    }
    Ok(())
}
