//! Measures what a release costs a builder and a node: `cargo run --release -p cairn-ota --example delta -- old.erofs
//! old.uki new.erofs new.uki [folder]`. One line a figure, `name value`; each step runs in a process of its own, whose
//! peak memory it names.

use std::{
    env,
    error::Error,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use cairn_model::{
    Digest,
    release::{Chunks, DataLayout, Patch, Payload, Release, Verity},
};
use cairn_ota::{
    FolderCarrier, chunks, patch,
    verity::{self, HashTree},
    write::{self, Target},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["step", step, folder, old_root, old_uki, new_root, new_uki] => {
            let payloads = [old_root, old_uki, new_root, new_uki].map(Path::new);
            run(step, &Folder(folder.into()), payloads)
        }
        [old_root, old_uki, new_root, new_uki] => {
            let folder = env::temp_dir().join(format!("cairn-delta-{}", std::process::id()));
            let outcome = all(&folder, [old_root, old_uki, new_root, new_uki]);
            let _ = fs::remove_dir_all(&folder);
            outcome
        }
        [old_root, old_uki, new_root, new_uki, folder] => {
            all(Path::new(folder), [old_root, old_uki, new_root, new_uki])
        }
        _ => Err("expected: delta old.erofs old.uki new.erofs new.uki [folder]".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs every step in a process of its own.
fn all(folder: &Path, payloads: [&str; 4]) -> Outcome<()> {
    fs::create_dir_all(folder.join("blobs/sha256"))?;
    for step in ["full", "pack", "make", "install-full", "install-chunks", "install-patch", "install-again"] {
        let mut command = Command::new(env::current_exe()?);
        command.arg("step").arg(step).arg(folder).args(payloads);
        if !command.status()?.success() {
            return Err(format!("step {step} failed").into());
        }
    }
    Ok(())
}

fn run(step: &str, folder: &Folder, payloads: [&Path; 4]) -> Outcome<()> {
    let [old_root, old_uki, new_root, new_uki] = payloads;
    let start = Instant::now();
    match step {
        "full" => full(new_root, new_uki)?,
        "pack" => {
            let mut pack = File::create(folder.at("pack"))?;
            let index = chunks::pack(new_root, new_uki, level(), &mut pack)?.to_bytes();
            fs::write(folder.at("index"), &index)?;
            println!("pack-bytes {}", pack.metadata()?.len());
            println!("index-bytes {}", index.len());
        }
        "make" => {
            let mut out = io::BufWriter::new(File::create(folder.at("patch"))?);
            let made = patch::make(old_root, old_uki, new_root, new_uki, level(), &mut out)?;
            out.flush()?;
            fs::write(folder.at("memory"), made.memory.to_string())?;
            println!("patch-bytes {}", fs::metadata(folder.at("patch"))?.len());
            println!("patch-memory-stated {}", made.memory);
            prepare(folder, payloads)?;
        }
        _ => install(step, folder, payloads)?,
    }
    println!("{step}-millis {}", start.elapsed().as_millis());
    println!("{step}-peak-kib {}", peak_kib()?);
    Ok(())
}

fn level() -> i32 {
    env::var("LEVEL").ok().and_then(|level| level.parse().ok()).unwrap_or(chunks::LEVEL)
}

/// What a transfer of the whole would take, compressed as one stream.
fn full(root: &Path, uki: &Path) -> Outcome<()> {
    let mut size = 0;
    for path in [root, uki] {
        let mut encoder = zstd::Encoder::new(Counter(0), level())?;
        io::copy(&mut File::open(path)?, &mut encoder)?;
        size += encoder.finish()?.0;
    }
    println!("full-bytes {size}");
    Ok(())
}

/// Counts what is written to it.
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes the layout, the release, and the tree of what runs.
fn prepare(folder: &Folder, [old_root, old_uki, new_root, new_uki]: [&Path; 4]) -> Outcome<()> {
    let tree = |path: &Path| -> Outcome<HashTree> { Ok(verity::hash_tree(File::open(path)?)?) };
    let (old, new) = (tree(old_root)?, tree(new_root)?);
    fs::write(folder.at("old.verity"), &old.bytes)?;
    let blob = |name: &str| -> Outcome<Payload> {
        let payload = payload(&folder.at(name))?;
        let place = folder.at("blobs/sha256").join(payload.digest.hex());
        if !place.exists() {
            fs::hard_link(folder.at(name), place)?;
        }
        Ok(payload)
    };
    let patch = Patch {
        from: "1".parse()?,
        from_root_hash: old.root_hash,
        blob: blob("patch")?,
        from_uki: payload(old_uki)?.digest,
        memory: fs::read_to_string(folder.at("memory"))?.parse()?,
    };
    let release = Release {
        schema: 1,
        version: "2".parse()?,
        compatible: "measured".into(),
        arch: "amd64".into(),
        min_version: None,
        changelog: String::new(),
        name: "measured".into(),
        built: 0,
        data_layout: DataLayout { min: 1, max: 1 },
        root: payload(new_root)?,
        uki: payload(new_uki)?,
        verity: Verity {
            root_hash: new.root_hash,
            salt: hex::encode(verity::SALT),
            uuid: hex::encode(verity::UUID),
        },
        chunks: Chunks { index: blob("index")?, pack: blob("pack")? },
        patches: vec![patch],
        health_command: Vec::new(),
    };
    fs::write(folder.at("release.json"), serde_json::to_vec(&release)?)?;
    Ok(())
}

fn payload(path: &Path) -> Outcome<Payload> {
    let bytes = fs::read(path)?;
    Ok(Payload { digest: Digest::of(&bytes), size: bytes.len() as u64 })
}

/// Writes the release into a slot: an empty one on a machine where nothing runs, an empty one beside the old release, by
/// patch or by chunks, or once more into one that has it.
fn install(step: &str, folder: &Folder, [old_root, old_uki, ..]: [&Path; 4]) -> Outcome<()> {
    let mut release = Release::parse(&fs::read(folder.at("release.json"))?)?;
    if step != "install-patch" {
        release.patches.clear();
    }
    fs::write(folder.at("empty"), b"")?;
    let slot = |name: &str, size: u64| -> io::Result<File> {
        let path = folder.at(name);
        if step != "install-again" {
            let _ = fs::remove_file(&path);
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        file.set_len(size)?;
        Ok(file)
    };
    let (root, tree) = (slot("slot", release.root.size)?, slot("slot.verity", 8 << 20)?);
    let mut uki = slot("slot.uki", if step == "install-again" { release.uki.size } else { 0 })?;
    let runs = step != "install-full";
    let of = |path: &Path| File::open(if runs { path.to_owned() } else { folder.at("empty") });
    let (running_root, running_tree) = (of(old_root)?, of(&folder.at("old.verity"))?);
    let mut target = Target {
        root: &root,
        tree: &tree,
        uki: &mut uki,
        running_root: &running_root,
        running_tree: &running_tree,
        running_uki: runs.then_some(old_uki),
        scratch: &folder.at("scratch"),
    };
    let mut carrier = FolderCarrier::new(&folder.0);
    let progress = write::write(&release, &mut target, &mut carrier, u64::MAX, &mut |_| (), &|| false)?;
    println!("{step}-method {:?}", progress.method);
    println!("{step}-fetched-bytes {}", progress.fetched);
    Ok(())
}

/// The most memory that this process ever had.
fn peak_kib() -> Outcome<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

struct Folder(PathBuf);

impl Folder {
    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}
