//! Unpacks Debian packages into a tree: ar, then tar in xz, zstd or gzip. Control files and scripts are never looked at.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};

use crate::fetch;
use crate::lock::Package;
use crate::tree::{Kind, Node, Tree, merged_path};

/// Largest unpacked package that is believed: the kernel is 130 MB.
const MAX_UNPACKED: u64 = 1024 * 1024 * 1024;

/// Paths of one package, in its order.
type Nodes = Vec<(String, Node)>;

/// Threads that unpack.
const PARALLEL: usize = 2;

/// Unpacks all packages, each checked against its hash. `wanted` sees each path before its content is kept.
pub fn unpack_all(
    packages: &[Package],
    folder: &Path,
    wanted: &(dyn Fn(&str) -> bool + Sync),
) -> Result<Tree> {
    let next = AtomicUsize::new(0);
    let done: Mutex<BTreeMap<usize, Result<Nodes>>> = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(package) = packages.get(index) else { break };
                    let result = unpack_package(package, folder, wanted);
                    done.lock().unwrap_or_else(PoisonError::into_inner).insert(index, result);
                }
            });
        }
    });
    let mut tree = Tree::default();
    for (index, result) in done.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let name = &packages[index].name;
        for (path, node) in result.with_context(|| format!("failed to unpack package {name}"))? {
            tree.insert(&path, node).with_context(|| format!("package {name} does not fit the others"))?;
        }
    }
    Ok(tree)
}

fn unpack_package(package: &Package, folder: &Path, wanted: &(dyn Fn(&str) -> bool + Sync)) -> Result<Nodes> {
    let path = fetch::verify(package, folder)?;
    let file = std::fs::File::open(&path).with_context(|| format!("failed to open {}", path.display()))?;
    unpack(std::io::BufReader::new(file), wanted)
}

/// Reads one .deb.
pub fn unpack(deb: impl Read, wanted: &(dyn Fn(&str) -> bool + Sync)) -> Result<Nodes> {
    let mut archive = ar::Archive::new(deb);
    while let Some(entry) = archive.next_entry() {
        let entry = entry.context("the archive is cut short or no .deb")?;
        let name = String::from_utf8_lossy(entry.header().identifier()).trim_end_matches('/').to_owned();
        let Some(extension) = name.strip_prefix("data.tar") else { continue };
        return match extension {
            ".xz" => unpack_tar(xz2::read::XzDecoder::new(entry), wanted),
            ".zst" => unpack_tar(zstd::Decoder::new(entry).context("zstd")?, wanted),
            ".gz" => unpack_tar(flate2::read::GzDecoder::new(entry), wanted),
            "" => unpack_tar(entry, wanted),
            other => bail!("data.tar{other} is compressed in an unknown way"),
        };
    }
    bail!("it holds no data.tar")
}

fn unpack_tar(tar: impl Read, wanted: &(dyn Fn(&str) -> bool + Sync)) -> Result<Nodes> {
    let mut archive = tar::Archive::new(tar.take(MAX_UNPACKED));
    let mut nodes = Vec::new();
    let mut contents: BTreeMap<String, Arc<Vec<u8>>> = BTreeMap::new();
    for entry in archive.entries().context("data.tar cannot be read")? {
        let mut entry = entry.context("data.tar is damaged")?;
        let raw = String::from_utf8(entry.path_bytes().into_owned()).context("a path is not UTF-8")?;
        let Some(path) = merged_path(&raw)? else { continue };
        let keep = wanted(&path);
        let link = entry.link_name_bytes().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let kind = match entry.header().entry_type() {
            tar::EntryType::Directory if keep => Kind::Folder,
            tar::EntryType::Symlink if keep => Kind::Link(link.context("a symlink without target")?),
            tar::EntryType::Link if keep => {
                let target = merged_path(&link.context("a hard link without target")?)?.unwrap_or_default();
                Kind::File(
                    contents
                        .get(&target)
                        .cloned()
                        .with_context(|| format!("{path} links to {target}, which was left out"))?,
                )
            }
            tar::EntryType::Regular if keep => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).context("data.tar is damaged")?;
                ensure!(content.len() as u64 == entry.size(), "data.tar is cut short");
                let content = Arc::new(content);
                contents.insert(path.clone(), Arc::clone(&content));
                Kind::File(content)
            }
            _ if !keep => continue,
            other => bail!("{path} is a {other:?}, which packages should not hold"),
        };
        let owner = |id: u64| u32::try_from(id).context("an owner is out of range");
        let header = entry.header();
        nodes.push((
            path,
            Node {
                kind,
                mode: header.mode()? & 0o7777,
                uid: owner(header.uid()?)?,
                gid: owner(header.gid()?)?,
            },
        ));
    }
    Ok(nodes)
}
