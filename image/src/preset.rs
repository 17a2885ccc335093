//! Enables units as `systemctl preset-all` would: reads `enable` lines of our preset file and the units' [Install]
//! sections, and masks what an appliance never needs.

use anyhow::{Context, Result, ensure};

use crate::glob;
use crate::tree::Tree;

const UNITS: &str = "usr/lib/systemd/system";
const CONFIG: &str = "etc/systemd/system";

/// Enables every unit that a preset text names.
pub fn enable_all(tree: &mut Tree, preset: &str) -> Result<()> {
    for line in glob::lines(preset) {
        if let Some(unit) = line.strip_prefix("enable ") {
            enable(tree, unit.trim(), 0)?;
        }
    }
    Ok(())
}

fn enable(tree: &mut Tree, unit: &str, depth: u32) -> Result<()> {
    ensure!(depth < 8, "unit {unit} is enabled through a chain of more than 8 Also= lines; correct it");
    let text = tree.text(&format!("{UNITS}/{unit}")).with_context(|| format!("the preset enables {unit}"))?;
    let target = format!("/{UNITS}/{unit}");
    for (key, value) in install_section(&text) {
        for name in value.split_whitespace() {
            match key {
                "WantedBy" => tree.link(&format!("{CONFIG}/{name}.wants/{unit}"), &target)?,
                "RequiredBy" => tree.link(&format!("{CONFIG}/{name}.requires/{unit}"), &target)?,
                "Alias" => tree.link(&format!("{CONFIG}/{name}"), &target)?,
                "Also" if name != unit => enable(tree, name, depth + 1)?,
                _ => {}
            }
        }
    }
    Ok(())
}

/// Key and value pairs of [Install].
fn install_section(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut inside = false;
    text.lines().map(str::trim).filter_map(move |line| {
        if line.starts_with('[') {
            inside = line == "[Install]";
        }
        if inside { line.split_once('=') } else { None }
    })
}

/// Masks units, whether a package brings them or not.
pub fn mask_all(tree: &mut Tree, list: &str) -> Result<()> {
    for unit in glob::lines(list) {
        tree.link(&format!("{CONFIG}/{unit}"), "/dev/null")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Node;

    #[test]
    fn install_sections_become_links() {
        let mut tree = Tree::default();
        let unit = "[Unit]\nWantedBy=no\n[Install]\nWantedBy=a.target b.target\nAlias=other.service\nAlso=two.socket\n";
        tree.file("usr/lib/systemd/system/one.service", 0o644, unit).unwrap();
        tree.file("usr/lib/systemd/system/two.socket", 0o644, "[Install]\nRequiredBy=c.target\n").unwrap();
        enable_all(&mut tree, "# x\nenable one.service\ndisable *\n").unwrap();
        for path in ["a.target.wants/one.service", "b.target.wants/one.service", "other.service"] {
            let link = tree.get(&format!("etc/systemd/system/{path}"));
            assert_eq!(link, Some(&Node::link("/usr/lib/systemd/system/one.service")), "{path}");
        }
        assert!(tree.get("etc/systemd/system/c.target.requires/two.socket").is_some());
        assert!(tree.get("etc/systemd/system/no.wants/one.service").is_none());
        let error = format!("{:#}", enable_all(&mut tree, "enable gone.service").unwrap_err());
        assert!(error.contains("gone.service"), "{error}");
    }

    #[test]
    fn masks_point_to_null() {
        let mut tree = Tree::default();
        mask_all(&mut tree, "x.service\n").unwrap();
        assert_eq!(tree.get("etc/systemd/system/x.service"), Some(&Node::link("/dev/null")));
    }
}
