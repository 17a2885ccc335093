//! The OS releases that the update scenarios install, made from the test image: a good one, and some that are not.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use anyhow::{Context, Result, anyhow};

use crate::{
    image::{self, Flavour},
    process, programs,
};

/// Fast to make; what is measured is made with the default.
const LEVEL: &str = "3";

/// A program that is broken in a release.
const BROKEN: &str = "#!/bin/sh\necho 'this program is broken on purpose' >&2\nexit 1\n";

/// A release to make.
struct Recipe {
    /// Name of its folder.
    name: &'static str,
    /// Its version.
    version: &'static str,
    /// The program that does not work in it.
    broken: Option<&'static str>,
    /// Whether it carries a patch from the test image.
    patch: bool,
    /// Which machines it says that it is for.
    compatible: Option<&'static str>,
}

const RECIPES: &[Recipe] = &[
    // The test image itself, to go back to.
    Recipe { name: "base", version: image::VERSION, broken: None, patch: false, compatible: None },
    Recipe { name: "good", version: "0.2.0", broken: None, patch: true, compatible: None },
    // Nothing in it ever says that the boot is complete.
    Recipe { name: "bad-boot", version: "0.3.0", broken: Some("cairnd"), patch: true, compatible: None },
    // It boots, and none of its containers starts.
    Recipe { name: "unhealthy", version: "0.4.0", broken: Some("cairn-oci"), patch: false, compatible: None },
    Recipe { name: "old", version: "0.0.9", broken: None, patch: false, compatible: None },
    Recipe { name: "foreign", version: "0.5.0", broken: None, patch: false, compatible: Some("other-board") },
];

/// Where they are: one OCI image layout each.
pub(crate) fn dir() -> PathBuf {
    crate::target().join("releases")
}

/// Makes those that are not up to date, two at a time: each takes one core, and 300 MB of memory.
pub(crate) fn build() -> Result<()> {
    image::build(Flavour::Test)?;
    let lock = image::packages()?;
    let next = AtomicUsize::new(0);
    let lane = || -> Result<()> {
        while let Some(recipe) = RECIPES.get(next.fetch_add(1, Ordering::Relaxed)) {
            recipe.make(&lock).with_context(|| format!("release {}", recipe.name))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let other = scope.spawn(lane);
        let mine = lane();
        other.join().map_err(|_| anyhow!("a thread died"))?.and(mine)
    })
}

impl Recipe {
    fn make(&self, lock: &Path) -> Result<()> {
        let Self { name, version, .. } = self;
        let built = self.image(lock)?;
        let (manifest, layout) = (fs::read(built.join("manifest.json"))?, dir().join(name));
        // The release is a function of the image, and of the one that it patches.
        let inputs = [manifest, fs::read(image::dir(Flavour::Test).join("manifest.json"))?].concat();
        let stamp = dir().join(format!("{name}.inputs"));
        if layout.exists() && fs::read(&stamp).ok().as_ref() == Some(&inputs) {
            return Ok(());
        }
        fs::remove_dir_all(&layout).ok();
        let mut command = image::tool();
        command
            .arg("release")
            .arg("--image")
            .arg(&built)
            .arg("--output")
            .arg(&layout)
            .args(["--level", LEVEL]);
        if self.patch {
            command.arg("--patch-from").arg(image::dir(Flavour::Test));
        }
        let what = format!("making release {version} ({name})");
        process::step_beside_others(&what, &format!("release-{name}"), &mut command)?;
        fs::write(stamp, inputs).context("failed to write a stamp")
    }

    /// The image that it is made from.
    fn image(&self, lock: &Path) -> Result<PathBuf> {
        let Self { name, version, .. } = self;
        if *version == image::VERSION {
            return Ok(image::dir(Flavour::Test));
        }
        let built = dir().join(format!("{name}.image"));
        let mut command = image::command(Flavour::Test, version, lock, &self.binaries()?, &built);
        if let Some(compatible) = self.compatible {
            command.args(["--compatible", compatible]);
        }
        let what = format!("assembling OS {version} ({name})");
        process::step_beside_others(&what, &format!("release-build-{name}"), &mut command)?;
        Ok(built)
    }

    /// The programs, or a folder of links to them in which one is broken.
    fn binaries(&self) -> Result<PathBuf> {
        let Some(broken) = self.broken else { return Ok(programs::dir()) };
        let folder = dir().join(format!("{}.bin", self.name));
        fs::remove_dir_all(&folder).ok();
        fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
        for entry in fs::read_dir(programs::dir())? {
            let entry = entry?;
            if entry.file_name() != broken {
                symlink(entry.path(), folder.join(entry.file_name()))?;
            }
        }
        let file = folder.join(broken);
        fs::write(&file, BROKEN)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
        Ok(folder)
    }
}
