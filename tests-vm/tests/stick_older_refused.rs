//! An older stick is as genuine as it was, and is refused; so is one whose time is over. A clock that is years off keeps a
//! node from neither, and it says what it could not check.

use anyhow::{Result, ensure};
use cairn_tests_vm::{
    Lab, Site, Stick,
    site::{self, copy, local, show},
    stick::Form,
};
use jiff::{SignedDuration, Timestamp};

/// Where a clock is after its battery was replaced.
const LONG_AGO: &str = "2009-01-01T00:00:00";

/// Beyond a day, and within the 90 that hold where nobody says otherwise.
const LATER: SignedDuration = SignedDuration::from_hours(30 * 24);

#[test]
fn stick_older_refused() -> Result<()> {
    let lab = Lab::new("stick-older")?;
    let mut site = Site::running(&lab)?;
    let old = lab.dir().join("old");
    site.export()?;
    copy(&site.folder, &old)?;
    site::redeploy(&lab, &site.hub, 2)?;
    site.round()?;
    let generation = local(&mut site.vm)?["generation"].clone();

    let stick = Stick::make(lab.dir().join("old.img"), Form::Ext4, 256)?;
    stick.fill(&old)?;
    site.ensure_refused(&stick, &["older"])?;
    ensure!(local(&mut site.vm)?["generation"] == generation, "it went back");
    // What is on it already is nothing new, and nothing wrong.
    let said = show(&mut site.vm, &site.stick)?;
    ensure!(said["state"] == "done", "the stick that it is on was refused: {said}");

    // Years back: it still verifies, and still refuses to go back. What systemd remembers of the time is lost with it.
    site.vm.check("systemctl stop systemd-timesyncd && rm -f /var/lib/systemd/timesync/clock && sync")?;
    let mut vm = site.vm.power_cycle_at(LONG_AGO)?;
    vm.wait_booted()?;
    site.vm = vm;
    site::wait_answer(&mut site.vm, 8081, "WebAssembly")?;
    site.ensure_refused(&stick, &["older"])?;
    site::redeploy(&lab, &site.hub, 3)?;
    site.export()?;
    let said = site.visit()?;
    ensure!(said["state"] == "done", "a wrong clock kept it from a good stick: {said}");
    ensure!(said["messages"].to_string().contains("clock"), "no word of the clock: {said}");
    ensure!(local(&mut site.vm)?["generation"] != generation, "nothing was applied: {said}");

    // A stick from a drawer: good for a day, found long after.
    site.hub.cairn(&["node", "freshness", "1", "--node", &site.id])?;
    site::redeploy(&lab, &site.hub, 4)?;
    site.export()?;
    let generation = local(&mut site.vm)?["generation"].clone();
    let later = Timestamp::now().checked_add(LATER)?.strftime("%Y-%m-%dT%H:%M:%S").to_string();
    let mut vm = site.vm.power_cycle_at(&later)?;
    vm.wait_booted()?;
    site.vm = vm;
    site::wait_answer(&mut site.vm, 8081, "WebAssembly")?;
    let expired = site.stick.clone();
    site.ensure_refused(&expired, &["expired", "timestamp"])?;
    ensure!(local(&mut site.vm)?["generation"] == generation, "it took what is over");
    Ok(())
}
