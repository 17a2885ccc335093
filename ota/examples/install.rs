//! Installs a release once and tells what it cost: `install LAYOUT OLD SLOT chunks|patch|nothing [BYTES]`. LAYOUT is what
//! `cairn-image release` made, OLD the folder of the image that runs (unused for `nothing`, where nothing does), and SLOT
//! a folder with the devices or files `root`, `tree` and `uki` to write. With BYTES the process is killed as soon as so
//! many were fetched, as by a power cut; the next run goes on from there. One line a figure: `name value`.

use std::{
    env,
    error::Error,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{self, ExitCode},
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use cairn_model::release::{Payload, Release};
use cairn_ota::{
    Carrier, FolderCarrier,
    write::{self, Target},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Bytes that came out of the carrier.
static FETCHED: AtomicU64 = AtomicU64::new(0);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [layout, old, slot, how] => install(Path::new(layout), Path::new(old), Path::new(slot), how, None),
        [layout, old, slot, how, bytes] => bytes
            .parse()
            .map_err(Into::into)
            .and_then(|bytes| install(Path::new(layout), Path::new(old), Path::new(slot), how, Some(bytes))),
        _ => Err("expected: install LAYOUT OLD SLOT chunks|patch|nothing [BYTES]".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn install(layout: &Path, old: &Path, slot: &Path, how: &str, kill_at: Option<u64>) -> Outcome<()> {
    let mut release = read_release(layout)?;
    match how {
        "patch" => {}
        "chunks" | "nothing" => release.patches.clear(),
        _ => return Err(format!("there is no way to install by {how}").into()),
    }
    let runs = how != "nothing";
    let open = |name: &str, create: bool| {
        OpenOptions::new().read(true).write(true).create(create).truncate(false).open(slot.join(name))
    };
    let (root, tree, mut uki) = (open("root", false)?, open("tree", false)?, open("uki", true)?);
    fs::write(slot.join("empty"), b"")?;
    let of = |name: &str| File::open(if runs { old.join(name) } else { slot.join("empty") });
    let (running_root, running_tree) = (of("root.erofs")?, of("root.verity")?);
    let running_uki = old.join("uki.efi");
    let mut target = Target {
        root: &root,
        tree: &tree,
        uki: &mut uki,
        running_root: &running_root,
        running_tree: &running_tree,
        running_uki: runs.then_some(running_uki.as_path()),
        scratch: &slot.join("scratch"),
    };
    let mut carrier = Metered { inner: FolderCarrier::new(layout), kill_at };
    let start = Instant::now();
    let done = write::write(&release, &mut target, &mut carrier, u64::MAX, &mut |_| (), &|| false)?;
    let millis = start.elapsed().as_millis();
    println!("method {}", format!("{:?}", done.method).to_lowercase());
    println!("fetched {}", FETCHED.load(Ordering::Relaxed));
    println!("millis {millis}");
    println!("peak-kib {}", peak_kib()?);
    Ok(())
}

/// The release document in an OCI image layout.
fn read_release(layout: &Path) -> Outcome<Release> {
    let blob = |digest: &serde_json::Value| -> Outcome<Vec<u8>> {
        let digest = digest.as_str().and_then(|text| text.strip_prefix("sha256:")).ok_or("no digest")?;
        Ok(fs::read(layout.join("blobs/sha256").join(digest))?)
    };
    let index: serde_json::Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
    let manifest: serde_json::Value = serde_json::from_slice(&blob(&index["manifests"][0]["digest"])?)?;
    Ok(Release::parse(&blob(&manifest["config"]["digest"])?)?)
}

/// Counts what is fetched, and may kill the process at some byte.
struct Metered {
    inner: FolderCarrier,
    kill_at: Option<u64>,
}

impl Carrier for Metered {
    fn read(&mut self, blob: &Payload, offset: u64, length: u64) -> io::Result<Box<dyn Read + Send + '_>> {
        let kill_at = self.kill_at;
        Ok(Box::new(Meter { inner: self.inner.read(blob, offset, length)?, kill_at }))
    }
}

struct Meter<'a> {
    inner: Box<dyn Read + Send + 'a>,
    kill_at: Option<u64>,
}

impl Read for Meter<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let fetched = FETCHED.load(Ordering::Relaxed);
        if self.kill_at.is_some_and(|kill_at| fetched >= kill_at) {
            // Nothing is flushed or tidied by whoever is ended like this.
            let _ = writeln!(io::stdout(), "fetched {fetched}");
            let _ = io::stdout().flush();
            process::abort();
        }
        // No more at once than a network gives.
        let most = buffer.len().min(16 << 10);
        let got = self.inner.read(&mut buffer[..most])?;
        FETCHED.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

/// The most memory that this process ever had.
fn peak_kib() -> Outcome<u64> {
    let status = fs::read_to_string(PathBuf::from("/proc/self/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
