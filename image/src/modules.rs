//! Kernel modules: keeps those that are wanted with all that they depend on, has their index made, and tells in which
//! order the initrd must load its few.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use anyhow::{Context, Result, bail};

use crate::glob;
use crate::tools::{Tools, write_folder};
use crate::tree::{Kind, Node, Tree};

/// Largest module that is believed.
const MAX_MODULE: u64 = 64 * 1024 * 1024;

/// In a list of modules: what follows is loaded only where no disk so far holds the root.
pub const LATER: &str = "--";

/// Name of the one kernel in the tree.
pub fn kernel_version(tree: &Tree) -> Result<String> {
    let names: BTreeSet<&str> =
        tree.children("usr/lib/modules").filter_map(|(path, _)| path.split('/').nth(3)).collect();
    match names.iter().collect::<Vec<_>>().as_slice() {
        [only] => Ok((**only).to_owned()),
        other => bail!("the packages hold {} kernels instead of one; correct the package list", other.len()),
    }
}

/// The modules of a tree.
#[derive(Debug)]
pub struct Modules {
    folder: String,
    /// Name as in `depends=` → path in the tree.
    paths: BTreeMap<String, String>,
}

/// A module's name: the file's without suffix, with underscores.
fn name_of(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let stem = file.strip_suffix(".ko.xz").or_else(|| file.strip_suffix(".ko"))?;
    Some(stem.replace('-', "_"))
}

impl Modules {
    /// Finds all modules of one kernel.
    pub fn find(tree: &Tree, kernel: &str) -> Self {
        let folder = format!("usr/lib/modules/{kernel}");
        let paths = tree
            .children(&format!("{folder}/kernel"))
            .filter_map(|(path, _)| Some((name_of(path)?, path.to_owned())))
            .collect();
        Self { folder, paths }
    }

    /// Removes every module that no pattern wants and no wanted one needs.
    pub fn prune(&mut self, tree: &mut Tree, patterns: &str) -> Result<()> {
        let prefix = format!("{}/kernel/", self.folder);
        let patterns: Vec<&str> = glob::lines(patterns).collect();
        let wanted = |path: &str| {
            let short = path.strip_prefix(&prefix).unwrap_or(path);
            patterns.iter().any(|pattern| glob::matches(pattern, short))
        };
        let mut queue: Vec<String> =
            self.paths.iter().filter(|(_, path)| wanted(path)).map(|(name, _)| name.clone()).collect();
        let mut keep = BTreeSet::new();
        while let Some(name) = queue.pop() {
            if keep.insert(name.clone()) {
                queue.extend(self.needs(tree, &name)?);
            }
        }
        self.paths.retain(|name, path| {
            let kept = keep.contains(name);
            if !kept {
                tree.remove(path);
            }
            kept
        });
        Ok(())
    }

    /// Has depmod index the modules, on a copy of them.
    pub fn index(&self, tree: &mut Tree, kernel: &str, tools: &Tools) -> Result<()> {
        let scratch = tempfile::tempdir().context("failed to make a temporary folder")?;
        let mut copy = Tree::default();
        for (path, node) in tree.children(&self.folder) {
            copy.insert(path, node.clone())?;
        }
        copy.link("lib", "usr/lib")?;
        write_folder(&copy, scratch.path())?;
        tools.run("usr/sbin/depmod", &["-b", &scratch.path().display().to_string(), kernel])?;
        let indexed = scratch.path().join(&self.folder);
        for entry in
            std::fs::read_dir(&indexed).with_context(|| format!("failed to list {}", indexed.display()))?
        {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("modules.") {
                tree.insert(
                    &format!("{}/{name}", self.folder),
                    Node::file(0o644, std::fs::read(entry.path())?),
                )?;
            }
        }
        Ok(())
    }

    /// Names and content of `wanted` and all that they need, each after its needs. What is built in is left out; the
    /// line [`LATER`] stays in its place, as a name without content.
    pub fn load_order(&self, tree: &Tree, wanted: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for name in glob::lines(wanted) {
            if name == LATER {
                order.push(name.to_owned());
            }
            self.visit(tree, name, &mut seen, &mut order)?;
        }
        let content = |name: &str| if name == LATER { Ok(Vec::new()) } else { self.content(tree, name) };
        order.into_iter().map(|name| Ok((name.clone(), content(&name)?))).collect()
    }

    fn visit(
        &self,
        tree: &Tree,
        name: &str,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<String>,
    ) -> Result<()> {
        if !self.paths.contains_key(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        for need in self.needs(tree, name)? {
            self.visit(tree, &need, seen, order)?;
        }
        order.push(name.to_owned());
        Ok(())
    }

    /// What a module names as dependencies, hard and soft, as far as they are modules.
    fn needs(&self, tree: &Tree, name: &str) -> Result<Vec<String>> {
        let names = dependencies(&self.content(tree, name)?);
        Ok(names.into_iter().filter(|need| self.paths.contains_key(need)).collect())
    }

    fn content(&self, tree: &Tree, name: &str) -> Result<Vec<u8>> {
        let path = self.paths.get(name).with_context(|| format!("there is no module {name}"))?;
        let Some(Node { kind: Kind::File(packed), .. }) = tree.get(path) else { bail!("{path} is no file") };
        if !path.ends_with(".xz") {
            return Ok(packed.to_vec());
        }
        let mut content = Vec::new();
        xz2::read::XzDecoder::new(packed.as_slice())
            .take(MAX_MODULE)
            .read_to_end(&mut content)
            .with_context(|| format!("{path} is no xz"))?;
        Ok(content)
    }
}

/// `depends=` and `softdep=pre:` of a module's .modinfo, which is a list of NUL-terminated texts.
fn dependencies(module: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    for text in module.split(|byte| *byte == 0) {
        let Ok(text) = std::str::from_utf8(text) else { continue };
        if let Some(list) = text.strip_prefix("depends=") {
            names.extend(list.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")));
        }
        if let Some(soft) = text.strip_prefix("softdep=") {
            let before = soft.split("pre:").nth(1).and_then(|rest| rest.split("post:").next()).unwrap_or("");
            names.extend(before.split_whitespace().map(|name| name.replace('-', "_")));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(info: &str) -> Node {
        Node::file(0o644, format!("\x7fELF..\0{info}\0license=GPL\0").replace('|', "\0"))
    }

    fn sample() -> Tree {
        let mut tree = Tree::default();
        let table = [
            ("fs/ext4/ext4.ko", "depends=jbd2,mbcache"),
            ("fs/jbd2/jbd2.ko", "depends="),
            ("fs/mbcache.ko", "depends=|softdep=pre: crc32c-generic post: later"),
            ("crypto/crc32c-generic.ko", "depends="),
            ("fs/later.ko", "depends="),
            ("sound/beep.ko", "depends=builtin-thing"),
        ];
        for (path, info) in table {
            tree.insert(&format!("usr/lib/modules/6.1/kernel/{path}"), module(info)).unwrap();
        }
        tree
    }

    #[test]
    fn pruning_keeps_what_the_wanted_ones_need() {
        let mut tree = sample();
        let mut modules = Modules::find(&tree, "6.1");
        modules.prune(&mut tree, "# comment\nfs/ext4/*\n").unwrap();
        let left: Vec<&str> = modules.paths.keys().map(String::as_str).collect();
        assert_eq!(left, ["crc32c_generic", "ext4", "jbd2", "mbcache"]);
        assert!(tree.get("usr/lib/modules/6.1/kernel/sound/beep.ko").is_none());
    }

    #[test]
    fn each_module_is_loaded_after_its_needs() {
        let tree = sample();
        let modules = Modules::find(&tree, "6.1");
        let order = modules.load_order(&tree, "ext4\n--\nbeep\nno-such\njbd2").unwrap();
        let names: Vec<&str> = order.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["jbd2", "crc32c_generic", "mbcache", "ext4", "--", "beep"]);
    }

    #[test]
    fn exactly_one_kernel_is_accepted() {
        let mut tree = sample();
        assert_eq!(kernel_version(&tree).unwrap(), "6.1");
        tree.folder("usr/lib/modules/6.2/kernel", 0o755).unwrap();
        assert!(kernel_version(&tree).is_err());
    }
}
