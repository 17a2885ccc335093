//! The lamp for whoever has no screen: it blinks while a stick must not be pulled, is lit while it may be, and is out where
//! there is none. The kernel does the blinking, so that a lamp costs three writes a stick.

use std::{
    fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use cairn_model::media::MediaStatus;
use tokio::{sync::watch, time::sleep};

use super::{Device, Mounts};
use crate::act::units::UnitJobs;

/// Where the kernel lists lamps.
const CLASS: &str = "/sys/class/leds";

/// Longest that the lamp's unit may take.
const UNIT_DEADLINE: Duration = Duration::from_secs(20);

/// What the lamp says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// There is no stick.
    Off,
    /// Do not pull it.
    Busy,
    /// It may be pulled.
    Ready,
}

impl Signal {
    /// As in the name of the unit that shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Busy => "busy",
            Self::Ready => "ready",
        }
    }
}

impl FromStr for Signal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = [Self::Off, Self::Busy, Self::Ready].into_iter().find(|signal| signal.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no signal; use off, busy or ready"))
    }
}

/// Shows signals.
#[async_trait]
pub trait Lamp: Send + Sync {
    /// Shows this one from now on.
    async fn show(&self, signal: Signal) -> Result<(), String>;
}

/// A lamp of the kernel's, by its files.
#[derive(Debug, Clone)]
pub struct FolderLamp {
    folder: PathBuf,
}

impl FolderLamp {
    /// The lamp of this name.
    pub fn named(name: &str) -> Self {
        Self::at(Path::new(CLASS).join(name))
    }

    /// The lamp whose files are in `folder`.
    pub fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Shows a signal.
    ///
    /// # Errors
    /// If there is no such lamp, or it cannot be set.
    pub fn set(&self, signal: Signal) -> io::Result<()> {
        let write = |file: &str, text: &str| fs::write(self.folder.join(file), text);
        // A kernel without that trigger refuses it: then what blinks elsewhere is lit.
        if signal == Signal::Busy && write("trigger", "timer").is_ok() {
            return Ok(());
        }
        write("trigger", "none")?;
        if signal == Signal::Off {
            return write("brightness", "0");
        }
        let most = fs::read_to_string(self.folder.join("max_brightness")).unwrap_or_default();
        write("brightness", most.trim().parse::<u32>().unwrap_or(1).max(1).to_string().as_str())
    }
}

#[async_trait]
impl Lamp for FolderLamp {
    async fn show(&self, signal: Signal) -> Result<(), String> {
        self.set(signal).map_err(|e| format!("the lamp {} cannot be set: {e}", self.folder.display()))
    }
}

/// A lamp behind a unit: the daemon's own walls make `/sys` read-only.
#[derive(Debug, Clone)]
pub struct UnitLamp {
    units: UnitJobs,
}

impl UnitLamp {
    /// By `cairn-media-led@.service`.
    pub fn new(units: UnitJobs) -> Self {
        Self { units }
    }
}

#[async_trait]
impl Lamp for UnitLamp {
    async fn show(&self, signal: Signal) -> Result<(), String> {
        let unit = format!("cairn-media-led@{}.service", signal.as_str());
        self.units.start(&unit, UNIT_DEADLINE).await.map_err(|e| e.to_string())
    }
}

/// What is to be shown.
fn signal(status: Option<&MediaStatus>, mounts: &dyn Mounts) -> Signal {
    let Some(status) = status else { return Signal::Off };
    if !status.removable {
        return Signal::Busy;
    }
    let is_there = status.device.parse::<Device>().is_ok_and(|device| mounts.is_plugged_in(&device));
    if is_there { Signal::Ready } else { Signal::Off }
}

/// Keeps the lamp as the stick is; goes on for ever.
pub(super) async fn follow(
    lamp: Option<Arc<dyn Lamp>>,
    mounts: Arc<dyn Mounts>,
    mut status: watch::Receiver<Option<MediaStatus>>,
    look: Duration,
) {
    let Some(lamp) = lamp else { return std::future::pending().await };
    let mut shown = None;
    let mut complained = None;
    loop {
        let now = signal(status.borrow_and_update().as_ref(), &*mounts);
        if shown != Some(now) {
            let problem = lamp.show(now).await.err();
            if problem != complained
                && let Some(problem) = &problem
            {
                tracing::warn!("{problem}");
            }
            complained = problem;
            shown = Some(now);
        }
        // Both arms are cancel-safe: a watch keeps its latest value. That a stick is gone rings no bell.
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return std::future::pending().await },
            () = sleep(look), if now == Signal::Ready => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_model::media::MediaState;

    use super::{super::PlainFolders, *};

    fn files(folder: &Path) -> (String, String) {
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        (read("trigger"), read("brightness"))
    }

    #[test]
    fn a_lamp_blinks_is_lit_and_goes_out() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("trigger", "[none] timer"), ("brightness", "0"), ("max_brightness", "255\n")] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let lamp = FolderLamp::at(dir.path().to_owned());
        lamp.set(Signal::Busy).unwrap();
        assert_eq!(files(dir.path()).0, "timer");
        lamp.set(Signal::Ready).unwrap();
        assert_eq!(files(dir.path()), ("none".to_owned(), "255".to_owned()));
        lamp.set(Signal::Off).unwrap();
        assert_eq!(files(dir.path()), ("none".to_owned(), "0".to_owned()));
        assert!(FolderLamp::at(dir.path().join("absent")).set(Signal::Off).is_err());
    }

    #[test]
    fn the_lamp_says_what_the_status_says() {
        let dir = tempfile::tempdir().unwrap();
        let mounts = PlainFolders::new(dir.path().to_owned());
        let status = |removable| MediaStatus {
            device: "sdb1".to_owned(),
            state: MediaState::Done,
            removable,
            messages: Vec::new(),
            copied: 0,
            to_copy: 0,
        };
        assert_eq!(signal(None, &mounts), Signal::Off);
        assert_eq!(signal(Some(&status(false)), &mounts), Signal::Busy);
        assert_eq!(signal(Some(&status(true)), &mounts), Signal::Off, "it was pulled");
        fs::create_dir(dir.path().join("sdb1")).unwrap();
        assert_eq!(signal(Some(&status(true)), &mounts), Signal::Ready);
        for signal in [Signal::Off, Signal::Busy, Signal::Ready] {
            assert_eq!(signal.as_str().parse(), Ok(signal));
        }
        assert!("on".parse::<Signal>().is_err());
    }
}
