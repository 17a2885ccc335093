//! The same inputs give the same bytes. Needs the packages of the lock: `./x test` fetches them and names their folder
//! in CAIRN_TEST_PACKAGES; without it there is nothing to build from, and the test says so.

use std::path::{Path, PathBuf};

use cairn_image::base::DEFAULT_COMPATIBLE;
use cairn_image::build::{self, Request};

const PROGRAMS: [&str; 5] = ["cairnd", "cairn", "cairn-oci", "cairn-wasm", "cairn-init"];

fn request(packages: &Path, folder: &Path, name: &str, test: bool) -> Request {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let binaries = folder.join("binaries");
    std::fs::create_dir_all(&binaries).unwrap();
    for program in PROGRAMS {
        std::fs::write(binaries.join(program), format!("stands for {program}")).unwrap();
    }
    Request {
        lock: here.join("debian.lock"),
        packages: packages.into(),
        binaries,
        dist: here.parent().unwrap().join("dist"),
        version: "1.2.3".parse().unwrap(),
        output: folder.join(name),
        test,
        epoch: None,
        compatible: DEFAULT_COMPATIBLE.into(),
        compress: true,
        extra: Vec::new(),
    }
}

#[test]
fn two_builds_are_equal_in_every_byte() {
    let Some(packages) = std::env::var_os("CAIRN_TEST_PACKAGES").map(PathBuf::from) else {
        eprintln!(
            "not run: CAIRN_TEST_PACKAGES names no folder with the lock's packages; `./x test` sets it"
        );
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let requests = ["one", "two"].map(|name| request(&packages, folder.path(), name, false));
    for request in &requests {
        assert!(!build::is_current(request).unwrap());
        build::build(request, &mut |_| {}).unwrap();
        assert!(build::is_current(request).unwrap());
    }
    for name in [
        "disk.raw",
        "disk.raw.zst",
        "root.erofs",
        "root.verity",
        "uki.efi",
        "sbom.spdx.json",
        "manifest.json",
    ] {
        let [one, two] = requests.each_ref().map(|request| std::fs::read(request.output.join(name)).unwrap());
        assert!(one == two, "{name} differs");
    }
    std::fs::write(requests[0].binaries.join("cairnd"), "another").unwrap();
    assert!(!build::is_current(&requests[0]).unwrap(), "a changed program makes the image stale");
    let test_image = request(&packages, folder.path(), "one", true);
    assert!(!build::is_current(&test_image).unwrap(), "a test image is never taken for a production one");
}
