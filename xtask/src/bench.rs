//! `./x bench`: figures, each with its baseline in the same run, printed as one table a subject.

mod nix;
mod node;
mod ota;
mod runtime;
mod usb;

use anyhow::Result;
use clap::ValueEnum;

use crate::{examples, image, programs, setup};

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// Container start to end, against crun and runc on the same bundle.
    Oci,
    /// A component from its precompiled file to the first answer, against compiling it first.
    Wasm,
    /// A node under QEMU: memory, boot, and from a deploy to what it asks for.
    Node,
    /// The flake: evaluation, and the image built by Nix, against building it without.
    Nix,
    /// OS updates: what they fetch, how long they take and what memory, against other tools; then on a node under QEMU.
    Ota,
    /// Sticks: what a node takes from one against `cp`, and what one for 50 nodes costs against one for a single node.
    Usb,
}

/// One line of a table.
struct Row {
    what: String,
    figure: f64,
    baseline: f64,
    unit: &'static str,
    against: &'static str,
}

/// Measures `what`, or everything.
pub(crate) fn run(what: &[What]) -> Result<()> {
    setup::ensure(setup::Need::Bench)?;
    programs::build()?;
    examples::build()?;
    let what = if what.is_empty() { What::value_variants() } else { what };
    for what in what {
        let rows = match what {
            What::Oci => runtime::containers()?,
            What::Wasm => runtime::components()?,
            What::Node => {
                image::build(image::Flavour::Test)?;
                node::measure()?
            }
            What::Nix => nix::measure()?,
            What::Ota => {
                ota::measure()?;
                continue;
            }
            What::Usb => {
                image::build(image::Flavour::Test)?;
                usb::measure()?
            }
        };
        show(&format!("{what:?}"), &rows);
    }
    Ok(())
}

/// Prints a table below its title.
fn show(title: &str, rows: &[Row]) {
    println!("\n### {title}\n");
    print!("{}", table(rows));
}

/// A table in Markdown, so that it can go into docs/benchmarks.md as it is.
fn table(rows: &[Row]) -> String {
    let mut text = String::from("| what | figure | baseline | ratio | against |\n|---|---:|---:|---:|---|\n");
    for row in rows {
        let ratio = match row.figure / row.baseline {
            ratio if ratio.is_nan() || ratio.is_infinite() => "–".to_owned(),
            // What is a small part of another says so in its third digit.
            ratio if ratio > 0.0 && ratio < 0.095 => format!("{ratio:.4}"),
            ratio => format!("{ratio:.2}"),
        };
        text.push_str(&format!(
            "| {} | {:.1} {u} | {:.1} {u} | {ratio} | {} |\n",
            row.what,
            row.figure,
            row.baseline,
            row.against,
            u = row.unit
        ));
    }
    text
}

/// The middle one; 0 for none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_its_ratio() {
        let row = Row { what: "x".to_owned(), figure: 3.0, baseline: 2.0, unit: "ms", against: "y" };
        assert!(table(&[row]).ends_with("| x | 3.0 ms | 2.0 ms | 1.50 | y |\n"));
        let row = Row { what: "x".to_owned(), figure: 3.0, baseline: 200.0, unit: "ms", against: "y" };
        assert!(table(&[row]).ends_with("| 0.0150 | y |\n"));
        let row = Row { what: "x".to_owned(), figure: 3.0, baseline: 0.0, unit: "ms", against: "y" };
        assert!(table(&[row]).ends_with("| – | y |\n"));
    }

    #[test]
    fn the_median_of_an_odd_number_is_the_middle_one() {
        assert_eq!(median(vec![9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median(Vec::new()), 0.0);
    }
}
