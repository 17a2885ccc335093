//! A root file system in memory: composed without privileges, and written as a tar whose headers carry the ownership.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

/// Content of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A file; shared, because hard links and copies are common in packages.
    File(Arc<Vec<u8>>),
    /// A symbolic link and where it points.
    Link(String),
}

/// One path of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Node {
    /// A file of root's.
    pub fn file(mode: u32, content: impl Into<Vec<u8>>) -> Self {
        Self { kind: Kind::File(Arc::new(content.into())), mode, uid: 0, gid: 0 }
    }

    /// A folder of root's.
    pub fn folder(mode: u32) -> Self {
        Self { kind: Kind::Folder, mode, uid: 0, gid: 0 }
    }

    /// A symbolic link.
    pub fn link(target: impl Into<String>) -> Self {
        Self { kind: Kind::Link(target.into()), mode: 0o777, uid: 0, gid: 0 }
    }

    /// The same node with another owner.
    pub fn owned_by(self, uid: u32, gid: u32) -> Self {
        Self { uid, gid, ..self }
    }
}

/// All paths, relative to the root, without leading or trailing slash; sorted, so that every output is deterministic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
}

/// Top-level folders of old that are links into usr.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// A path in the form that the tree uses; `None` for the root itself.
pub fn normal_path(path: &str) -> Result<Option<String>> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    ensure!(!parts.contains(&".."), "path '{path}' leaves its folder; the package is broken");
    ensure!(
        path.len() <= 4096 && !path.contains('\0'),
        "path is too long or holds a NUL; the package is broken"
    );
    Ok((!parts.is_empty()).then(|| parts.join("/")))
}

/// The same for a path of a package: what lies below a folder that is merged into usr is there.
pub fn merged_path(path: &str) -> Result<Option<String>> {
    let merged = |path: String| {
        let first = path.split_once('/').map(|(first, _)| first);
        if first.is_some_and(|first| MERGED.contains(&first)) { format!("usr/{path}") } else { path }
    };
    Ok(normal_path(path)?.map(merged))
}

impl Tree {
    /// Puts a node in place; a folder that is there keeps its children. Missing parents are made.
    pub fn insert(&mut self, path: &str, node: Node) -> Result<()> {
        let Some(path) = normal_path(path)? else { return Ok(()) };
        self.ensure_parents(&path)?;
        let was_folder = matches!(self.nodes.get(&path), Some(Node { kind: Kind::Folder, .. }));
        if was_folder && node.kind != Kind::Folder {
            ensure!(
                self.children(&path).next().is_none(),
                "{path} is a folder with content and cannot be replaced"
            );
        }
        self.nodes.insert(path, node);
        Ok(())
    }

    fn ensure_parents(&mut self, path: &str) -> Result<()> {
        for (at, _) in path.match_indices('/') {
            let parent = self.nodes.entry(path[..at].to_owned()).or_insert_with(|| Node::folder(0o755));
            ensure!(parent.kind == Kind::Folder, "{path} lies below {}, which is no folder", &path[..at]);
        }
        Ok(())
    }

    /// Adds a file of root's.
    pub fn file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Result<()> {
        self.insert(path, Node::file(mode, content))
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.insert(path, Node::link(target))
    }

    /// Adds a folder of root's.
    pub fn folder(&mut self, path: &str, mode: u32) -> Result<()> {
        self.insert(path, Node::folder(mode))
    }

    /// The node at a path.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// A file's bytes.
    pub fn read(&self, path: &str) -> Result<Arc<Vec<u8>>> {
        match self.nodes.get(path) {
            Some(Node { kind: Kind::File(content), .. }) => Ok(Arc::clone(content)),
            _ => anyhow::bail!(
                "the packages hold no file {path}; renew the lock, or add the package that brings it"
            ),
        }
    }

    /// A file's text.
    pub fn text(&self, path: &str) -> Result<String> {
        String::from_utf8(self.read(path)?.to_vec()).with_context(|| format!("{path} is not UTF-8"))
    }

    /// Everything below a folder, the folder itself not included.
    pub fn children<'a>(&'a self, folder: &str) -> impl Iterator<Item = (&'a str, &'a Node)> + use<'a> {
        let prefix = format!("{folder}/");
        let start = prefix.clone();
        self.nodes
            .range(start..)
            .map(|(path, node)| (path.as_str(), node))
            .take_while(move |(path, _)| path.starts_with(&prefix))
    }

    /// All paths in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// Takes out a path and all below it.
    pub fn remove(&mut self, path: &str) -> Vec<(String, Node)> {
        let below: Vec<String> = self.children(path).map(|(path, _)| path.to_owned()).collect();
        let all = std::iter::once(path.to_owned()).chain(below);
        all.filter_map(|path| self.nodes.remove_entry(&path)).collect()
    }

    /// Changes every file's node.
    pub fn for_each_file(&mut self, mut change: impl FnMut(&mut Node)) {
        self.nodes.values_mut().filter(|node| matches!(node.kind, Kind::File(_))).for_each(&mut change);
    }

    /// Sum of all file sizes.
    pub fn content_bytes(&self) -> u64 {
        let size = |node: &Node| if let Kind::File(content) = &node.kind { content.len() as u64 } else { 0 };
        self.nodes.values().map(size).sum()
    }

    /// The tree as a tar: sorted, one time for all, numeric owners. Files that share their content become hard links
    /// only where a package said so, which is lost here: they are written out.
    pub fn write_tar(&self, output: impl Write, epoch: u64) -> Result<()> {
        let mut tar = tar::Builder::new(output);
        let mut root = header(&Node::folder(0o755), epoch);
        tar.append_data(&mut root, "./", std::io::empty()).context("failed to write tar")?;
        for (path, node) in &self.nodes {
            let mut header = header(node, epoch);
            match &node.kind {
                Kind::Folder => tar.append_data(&mut header, format!("{path}/"), std::io::empty()),
                Kind::File(content) => tar.append_data(&mut header, path, content.as_slice()),
                Kind::Link(target) => tar.append_link(&mut header, path, target),
            }
            .with_context(|| format!("failed to write {path} to tar"))?;
        }
        tar.finish().context("failed to finish tar")
    }
}

fn header(node: &Node, epoch: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    let (kind, size) = match &node.kind {
        Kind::Folder => (tar::EntryType::Directory, 0),
        Kind::File(content) => (tar::EntryType::Regular, content.len() as u64),
        Kind::Link(_) => (tar::EntryType::Symlink, 0),
    };
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(node.mode);
    header.set_uid(u64::from(node.uid));
    header.set_gid(u64::from(node.gid));
    header.set_mtime(epoch);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normal_and_stay_inside() {
        let table = [
            ("./usr//bin/./x", Some("usr/bin/x")),
            ("./", None),
            ("lib/x", Some("lib/x")),
            ("/a", Some("a")),
        ];
        for (path, expected) in table {
            assert_eq!(normal_path(path).unwrap().as_deref(), expected, "{path}");
        }
        let merged = [
            ("./lib/x", "usr/lib/x"),
            ("bin", "bin"),
            ("library/x", "library/x"),
            ("sbin/a/b", "usr/sbin/a/b"),
        ];
        for (path, expected) in merged {
            assert_eq!(merged_path(path).unwrap().as_deref(), Some(expected), "{path}");
        }
        assert!(normal_path("a/../../etc").is_err());
        assert!(normal_path("a\0b").is_err());
    }

    #[test]
    fn parents_are_made_and_must_be_folders() {
        let mut tree = Tree::default();
        tree.file("a/b/c", 0o644, "x").unwrap();
        assert_eq!(tree.get("a/b"), Some(&Node::folder(0o755)));
        assert!(tree.file("a/b/c/d", 0o644, "x").is_err());
        assert!(tree.link("a/b", "x").is_err(), "a folder with content is not replaced");
        tree.folder("a/b", 0o700).unwrap();
        assert_eq!(tree.text("a/b/c").unwrap(), "x");
        assert_eq!(tree.remove("a").len(), 3);
        assert_eq!(tree, Tree::default());
    }

    #[test]
    fn the_tar_is_sorted_and_carries_owners_without_being_root() {
        let mut tree = Tree::default();
        tree.insert("z", Node::file(0o640, "zz").owned_by(3, 42)).unwrap();
        tree.link("a", "z").unwrap();
        tree.file(&format!("{}/long", "d".repeat(120)), 0o755, "x").unwrap();
        let mut bytes = Vec::new();
        tree.write_tar(&mut bytes, 77).unwrap();
        let mut again = Vec::new();
        tree.write_tar(&mut again, 77).unwrap();
        assert_eq!(bytes, again);
        let mut archive = tar::Archive::new(bytes.as_slice());
        let seen: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                assert_eq!(header.mtime().unwrap(), 77);
                let path = entry.path().unwrap().display().to_string();
                (path, header.mode().unwrap(), header.uid().unwrap(), header.gid().unwrap())
            })
            .collect();
        assert_eq!(seen.last(), Some(&("z".to_owned(), 0o640, 3, 42)));
        assert_eq!(seen[1].0, "a");
        assert_eq!(seen.len(), 5);
    }
}
