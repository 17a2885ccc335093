//! Releases of small images that are sound in all that a release looks at.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use cairn_image::build::{Artifact, DATA_LAYOUT, MANIFEST_SCHEMA, Manifest};
use cairn_image::release::layout::Layout;
use cairn_image::release::{Made, Request, make};
use cairn_image::{fetch, uki};
use cairn_model::error::chain;
use cairn_model::oci::{ARTIFACT_TYPE_RELEASE, MEDIA_TYPE_RELEASE_CONFIG};
use cairn_model::release::Release;
use cairn_model::report::{OsMethod, OsProgress};
use cairn_ota::write::{Target, write};
use cairn_ota::{FolderCarrier, verity};
use serde_json::Value;

/// The least that is an EFI stub with room for sections.
fn stub() -> Vec<u8> {
    let mut pe = vec![0u8; 0x800];
    pe[..2].copy_from_slice(b"MZ");
    let mut put = |at: usize, bytes: &[u8]| pe[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x3c, &0x40u32.to_le_bytes());
    put(0x40, b"PE\0\0");
    put(0x46, &1u16.to_le_bytes());
    put(0x54, &240u16.to_le_bytes());
    put(0x58, &0x20bu16.to_le_bytes());
    for (field, value) in [(32, 0x1000u32), (36, 0x200), (60, 0x600)] {
        put(0x58 + field, &value.to_le_bytes());
    }
    let table = 0x58 + 240;
    put(table, b".text");
    for (field, value) in [(8, 0x10u32), (12, 0x1000), (16, 0x200), (20, 0x600)] {
        put(table + field, &value.to_le_bytes());
    }
    pe
}

/// Bytes that do not compress, from a seed.
fn noise(mut state: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[derive(Clone)]
struct Recipe {
    version: &'static str,
    compatible: &'static str,
    root: Vec<u8>,
    kernel: Vec<u8>,
}

impl Recipe {
    fn new(version: &'static str) -> Self {
        Self { version, compatible: "box-1", root: noise(1, 3 << 20), kernel: noise(2, 1 << 20) }
    }

    /// The same with a little changed in both payloads.
    fn next(&self, version: &'static str) -> Self {
        let mut next = Self { version, ..self.clone() };
        next.root[1_000_000..1_004_096].copy_from_slice(&noise(3, 4096));
        next.kernel.splice(500_000..500_000, noise(4, 1000));
        next
    }

    /// What `cairn-image build` would leave.
    fn build(&self, folder: &Path) -> PathBuf {
        let output = folder.join(self.version);
        std::fs::create_dir_all(&output).unwrap();
        let tree = verity::hash_tree(self.root.as_slice()).unwrap();
        let (version, compatible) = (self.version, self.compatible);
        let os_release = format!(
            "PRETTY_NAME=\"Cairn {version}\"\nIMAGE_VERSION={version}\nCAIRN_COMPATIBLE={compatible}\n"
        );
        let command_line = format!("roothash={} ro\0", tree.root_hash);
        let sections = [
            uki::Section { name: ".osrel", content: os_release.as_bytes() },
            uki::Section { name: ".cmdline", content: command_line.as_bytes() },
            uki::Section { name: ".linux", content: &self.kernel },
        ];
        let kernel = uki::assemble(&stub(), &sections).unwrap();
        let parts = [("root.erofs", &self.root), ("root.verity", &tree.bytes), ("uki.efi", &kernel)];
        let files = parts.map(|(name, content)| {
            std::fs::write(output.join(name), content).unwrap();
            let sha256 = Some(fetch::hash(&mut content.as_slice()).unwrap());
            Artifact { name: name.into(), size: content.len() as u64, sha256 }
        });
        let manifest = Manifest {
            schema: MANIFEST_SCHEMA,
            version: version.into(),
            compatible: compatible.into(),
            arch: "amd64".into(),
            data_layout: DATA_LAYOUT,
            test: false,
            root_hash: tree.root_hash,
            kernel: "6.12".into(),
            epoch: 1_763_200_800,
            inputs: "0".into(),
            files: files.into(),
        };
        std::fs::write(output.join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
        output
    }
}

fn request(image: &Path, output: &Path) -> Request {
    Request { image: image.into(), output: output.into(), level: 3, ..Request::default() }
}

fn try_make(request: &Request) -> Result<Made, String> {
    make(request, &mut |_| {}).map_err(|error| chain(&error))
}

/// Every file of a layout with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut queue = vec![folder.to_path_buf()];
    while let Some(next) = queue.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                queue.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_owned();
                found.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    found
}

fn blob(layout: &Path, digest: &Value) -> Vec<u8> {
    let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
    std::fs::read(layout.join("blobs/sha256").join(hex)).unwrap()
}

#[test]
fn a_release_is_an_oci_artifact_that_names_all_that_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let old = Recipe::new("1.0");
    let (old, new) = (old.build(folder.path()), old.next("1.1").build(folder.path()));
    std::fs::write(at("news"), "Faster.\n").unwrap();
    let made = try_make(&Request {
        patch_from: vec![old],
        min_version: Some("1.0".parse().unwrap()),
        changelog: Some(at("news")),
        health_command: vec!["/usr/bin/check".into(), "--all".into()],
        compatible: Some("box-1".into()),
        ..request(&new, &at("layout"))
    })
    .unwrap();
    let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
    let layout = at("layout");
    assert_eq!(json(&std::fs::read(layout.join("oci-layout")).unwrap())["imageLayoutVersion"], "1.0.0");
    let index = json(&std::fs::read(layout.join("index.json")).unwrap());
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "1.1");
    assert_eq!(index["manifests"][0]["digest"], made.digest.to_string());
    let manifest = json(&blob(&layout, &index["manifests"][0]["digest"]));
    assert_eq!(manifest["artifactType"], ARTIFACT_TYPE_RELEASE);
    assert_eq!(manifest["config"]["mediaType"], MEDIA_TYPE_RELEASE_CONFIG);
    let release = json(&blob(&layout, &manifest["config"]["digest"]));
    assert_eq!((&release["name"], &release["changelog"]), (&"Cairn 1.1".into(), &"Faster.\n".into()));
    assert_eq!((&release["compatible"], &release["min_version"]), (&"box-1".into(), &"1.0".into()));
    assert_eq!(release["health_command"], serde_json::json!(["/usr/bin/check", "--all"]));
    let named = [&release["chunks"]["index"], &release["chunks"]["pack"], &release["patches"][0]["blob"]];
    let layers = manifest["layers"].as_array().unwrap();
    for (layer, payload) in layers.iter().zip(named) {
        assert_eq!((&layer["digest"], &layer["size"]), (&payload["digest"], &payload["size"]));
        assert_eq!(blob(&layout, &layer["digest"]).len() as u64, layer["size"].as_u64().unwrap());
    }
    assert_eq!((layers.len(), files(&layout).len()), (3, 3 + 2 + 2));
    let patch = &made.release.patches[0];
    assert!(patch.blob.size < 20_000, "a small change is a small patch: {}", patch.blob.size);
    assert_eq!(Layout::open(&layout).unwrap().release, made.release);
    let left = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().starts_with('.')), "nothing is left behind");
}

#[test]
fn the_same_inputs_give_the_same_bytes_from_a_build_or_from_a_release() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let recipes = [Recipe::new("1.0"), Recipe::new("1.0").next("1.1")];
    let [first, second] = recipes.map(|recipe| recipe.build(folder.path()));
    let third = Recipe { kernel: noise(9, 100_000), ..Recipe::new("1.2") }.build(folder.path());
    try_make(&request(&first, &at("first"))).unwrap();
    let from = [vec![first.clone(), second.clone()], vec![second, at("first")]];
    for (name, patch_from) in ["a", "b"].into_iter().zip(from) {
        try_make(&Request { patch_from, ..request(&third, &at(name)) }).unwrap();
    }
    assert!(files(&at("a")) == files(&at("b")));
}

#[test]
fn skopeo_reads_and_copies_a_release() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        eprintln!("skopeo is not installed: nothing tried");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let old = Recipe::new("1.0");
    let (old, new) = (old.build(folder.path()), old.next("1.1").build(folder.path()));
    try_make(&Request { patch_from: vec![old], ..request(&new, &at("layout")) }).unwrap();
    let (from, to) =
        (format!("oci:{}:1.1", at("layout").display()), format!("oci:{}:1.1", at("copy").display()));
    for arguments in [vec!["inspect", "--raw", &from], vec!["copy", &from, &to]] {
        let output = Command::new("skopeo").args(["--insecure-policy"]).args(&arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(Layout::open(&at("copy")).unwrap().release, Layout::open(&at("layout")).unwrap().release);
    // What skopeo copied is enough to make a patch from.
    let next = Recipe { kernel: noise(9, 100_000), ..Recipe::new("1.2") }.build(folder.path());
    try_make(&Request { patch_from: vec![at("copy")], ..request(&next, &at("next")) }).unwrap();
}

/// Puts a release into the files of a slot, with the code of a node that runs what is in `running`, or nothing.
fn install(
    layout: &Path,
    release: &Release,
    running: Option<&Path>,
    scratch: &Path,
) -> (OsProgress, [Vec<u8>; 2]) {
    let file = |name: &str, size: u64| {
        let options =
            File::options().read(true).write(true).create(true).truncate(true).open(scratch.join(name));
        let file = options.unwrap();
        file.set_len(size).unwrap();
        file
    };
    let (root, tree) = (file("root", release.root.size), file("tree", 8 << 20));
    let mut uki = file("uki", 0);
    let open = |name: &str| match running {
        Some(folder) => File::open(folder.join(name)).unwrap(),
        None => file(&format!("no-{name}"), 0),
    };
    let running_uki = running.map(|folder| folder.join("uki.efi"));
    let mut target = Target {
        root: &root,
        tree: &tree,
        uki: &mut uki,
        running_root: &open("root.erofs"),
        running_tree: &open("root.verity"),
        running_uki: running_uki.as_deref(),
        scratch: &scratch.join("scratch"),
    };
    let mut carrier = FolderCarrier::new(layout);
    let done = write(release, &mut target, &mut carrier, u64::MAX, &mut |_| {}, &|| false).unwrap();
    (done, ["root", "uki"].map(|name| std::fs::read(scratch.join(name)).unwrap()))
}

#[test]
fn a_node_installs_it_by_patch_and_by_chunks() {
    let folder = tempfile::tempdir().unwrap();
    let old = Recipe::new("1.0");
    let (new, old) = (old.next("1.1").build(folder.path()), old.build(folder.path()));
    let layout = folder.path().join("layout");
    let made = try_make(&Request { patch_from: vec![old.clone()], ..request(&new, &layout) }).unwrap();
    let wanted = ["root.erofs", "uki.efi"].map(|name| std::fs::read(new.join(name)).unwrap());
    for (running, method) in [(Some(old.as_path()), OsMethod::Patch), (None, OsMethod::Chunks)] {
        let (done, found) = install(&layout, &made.release, running, folder.path());
        assert_eq!(done.method, method);
        assert!(found == wanted, "{method:?}");
    }
}

#[test]
fn refuses_what_would_be_no_release() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let old = Recipe::new("1.0");
    let (new, old) = (old.next("1.1").build(folder.path()), old.build(folder.path()));
    let other = Recipe { compatible: "box-2", ..Recipe::new("0.9") }.build(folder.path());
    let twin = Recipe::new("1.0").next("1.0").build(&at("twin"));
    std::fs::create_dir_all(at("nothing")).unwrap();
    std::fs::write(at("long"), "x".repeat((64 << 10) + 1)).unwrap();
    std::fs::write(at("binary"), [0xff, 0xfe]).unwrap();
    let version = |text: &str| Some(text.parse().unwrap());
    let good = request(&new, &at("out"));
    let from = |paths: &[&Path]| Request {
        patch_from: paths.iter().map(|path| path.to_path_buf()).collect(),
        ..good.clone()
    };
    let table = [
        (request(&at("nothing"), &at("out")), "neither a folder that `cairn-image build` filled"),
        (request(&new, &at("nothing")), "exists"),
        (from(&[&new]), "is version 1.1, as this release is"),
        (from(&[&old, &twin]), "1.0 is named twice"),
        (from(&[&other]), "for 'box-2', and this release for 'box-1'"),
        (from(&[&at("nothing")]), "nor an OCI image layout"),
        (from(&vec![old.as_path(); 65]), "over 64"),
        (Request { compatible: Some("box-2".into()), ..good.clone() }, "build --compatible box-2"),
        (Request { min_version: version("2"), ..good.clone() }, "--min-version 2 is newer"),
        (Request { min_version: version("1.0.5"), ..from(&[&old]) }, "1.0 is older than --min-version 1.0.5"),
        (Request { changelog: Some(at("long")), ..good.clone() }, "64 KiB"),
        (Request { changelog: Some(at("binary")), ..good.clone() }, "changelog"),
        (Request { changelog: Some(at("none")), ..good.clone() }, "changelog"),
        (Request { health_command: vec![String::new(); 65], ..good.clone() }, "health_command"),
    ];
    for (request, expected) in table {
        let said = try_make(&request).unwrap_err();
        assert!(said.contains(expected), "{expected}: {said}");
        assert!(!at("out").exists(), "{expected}");
    }
}

#[test]
fn refuses_parts_that_do_not_belong_together() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let recipe = Recipe::new("1.0");
    let other = recipe.next("1.1").build(folder.path());
    let edit = |image: &Path, change: &dyn Fn(&mut Value)| {
        let path = image.join("manifest.json");
        let mut manifest = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut manifest);
        std::fs::write(path, manifest.to_string()).unwrap();
    };
    // A file of another build, with and without its line in the manifest.
    let swap = |image: &Path, name: &str, honest: bool| {
        let content = std::fs::read(other.join(name)).unwrap();
        std::fs::write(image.join(name), &content).unwrap();
        let index = ["root.erofs", "root.verity", "uki.efi"].iter().position(|known| *known == name).unwrap();
        if honest {
            edit(image, &|manifest| {
                manifest["files"][index]["sha256"] = fetch::hash(&mut content.as_slice()).unwrap().into();
                manifest["files"][index]["size"] = content.len().into();
            });
        }
    };
    type Damage<'a> = Box<dyn Fn(&Path) + 'a>;
    let table: Vec<(&str, Damage<'_>)> = vec![
        ("root.erofs is not the file", Box::new(|image| swap(image, "root.erofs", false))),
        ("not the hash tree of root.erofs", Box::new(|image| swap(image, "root.erofs", true))),
        ("not the hash tree of root.erofs", Box::new(|image| swap(image, "root.verity", true))),
        ("starts another root", Box::new(|image| swap(image, "uki.efi", true))),
        ("another version", Box::new(|image| edit(image, &|m| m["version"] = "1.0.1".into()))),
        ("other machines", Box::new(|image| edit(image, &|m| m["compatible"] = "box-2".into()))),
        ("another version of cairn-image", Box::new(|image| edit(image, &|m| m["schema"] = 1.into()))),
        ("does not name root.erofs", Box::new(|image| edit(image, &|m| m["files"] = Value::Array(vec![])))),
        ("manifest.json", Box::new(|image| edit(image, &|m| m["epoch"] = "soon".into()))),
        ("failed to read", Box::new(|image| std::fs::remove_file(image.join("uki.efi")).unwrap())),
    ];
    for (expected, damage) in table {
        let image = recipe.build(&at("damaged"));
        damage(&image);
        let said = try_make(&request(&image, &at("out"))).unwrap_err();
        assert!(said.contains(expected) && said.contains("build the image again"), "{expected}: {said}");
    }
    let large = Recipe { kernel: noise(1, 60 << 20), ..recipe }.build(&at("large"));
    let said = try_make(&request(&large, &at("out"))).unwrap_err();
    assert!(said.contains("kernel image") && said.contains("enlarge the layout"), "{said}");
}

#[test]
fn a_damaged_release_is_no_base_for_a_patch() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let old = Recipe::new("1.0");
    let (new, old) = (old.next("1.1").build(folder.path()), old.build(folder.path()));
    let made = try_make(&request(&old, &at("old"))).unwrap();
    let hex = |digest: &cairn_model::Digest| at("old").join("blobs/sha256").join(digest.hex());
    let chunks = &made.release.chunks;
    for path in [hex(&made.digest), hex(&chunks.index.digest), hex(&chunks.pack.digest), at("old/index.json")]
    {
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        std::fs::write(&path, bad).unwrap();
        let request = Request { patch_from: vec![at("old")], ..request(&new, &at("out")) };
        let said = try_make(&request).unwrap_err();
        assert!(said.contains("old"), "{said}");
        std::fs::remove_file(&path).unwrap();
        assert!(try_make(&request).is_err());
        assert!(!at("out").exists());
        std::fs::write(&path, good).unwrap();
    }
}
