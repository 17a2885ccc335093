//! A stick is pulled at random instants of a visit, again and again: the node runs on, no byte of the bundle on the stick
//! is harmed, and the next plug-in goes on where it was.
//!
//! `CAIRN_PULLS` is how often (5 where absent), `CAIRN_SEED` what chance begins with.

use std::{
    env,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use cairn_tests_vm::{
    Lab, Site,
    site::{self, local},
    vm::{run, usb::Protection},
    wait,
};
use fastrand::Rng;

#[test]
fn stick_pulled() -> Result<()> {
    let number = |name: &str, default: u64| env::var(name).map_or(Ok(default), |text| text.parse());
    let (pulls, seed) = (number("CAIRN_PULLS", 5)?, number("CAIRN_SEED", 1)?);
    println!("{pulls} pulls, seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let lab = Lab::new("stick-pulled")?;
    let mut site = Site::running(&lab)?;

    // How long a whole visit takes here and now: instants are chosen from that.
    site.export()?;
    let start = Instant::now();
    site.visit()?;
    let visit = start.elapsed().max(Duration::from_secs(5));
    site.import()?;
    for pull in 1..=pulls {
        // Something to take each time, and something to tell.
        site::redeploy(&lab, &site.hub, u32::try_from(pull)? + 1)?;
        let instant = Duration::from_millis(rng.u64(100..u64::try_from(visit.as_millis())?));
        println!("pull {pull} after {} ms", instant.as_millis());
        pull_once(&lab, &mut site, instant)
            .with_context(|| format!("pull {pull} of {pulls}, seed {seed}"))?;
    }
    Ok(())
}

/// A visit that ends at an instant, and one that completes it.
fn pull_once(lab: &Lab, site: &mut Site, instant: Duration) -> Result<()> {
    site.export()?;
    let exported = lab.dir().join("exported");
    site::copy(&site.folder, &exported)?;
    site.vm.plug("stick", site.stick.image(), Protection::Writable)?;
    let start = Instant::now();
    wait::until("the instant", instant, || Ok((start.elapsed() >= instant).then_some(())))?;
    site.vm.unplug("stick")?;

    site.stick.read_back(&site.folder)?;
    harmless(&exported, &site.folder)?;
    // What is whole of the outbox is good, and what is not whole is not taken for it.
    let imported = site.import()?;
    ensure!(imported["refused"].as_array().is_none_or(Vec::is_empty), "the hub refused some: {imported}");
    wait::until("the node to let go of what was pulled", site::VISIT_DEADLINE, || {
        let (said, visits) = (local(&mut site.vm)?["media"].clone(), site::visits(&mut site.vm)?);
        let left = site.vm.check(
            "findmnt -rno TARGET | grep /run/cairn/media; systemctl list-units --no-legend --plain 'cairn-media*'; true",
        )?;
        let over = left.trim().is_empty() && visits.begun == visits.ended && said["removable"] != false;
        ensure!(over, "it says: {said}; {visits:?}; {left}");
        Ok(Some(()))
    })?;
    site::wait_answer(&mut site.vm, 8081, "WebAssembly")?;

    // The same stick again, as the technician would do it: whatever was interrupted is completed.
    let said = site::show(&mut site.vm, &site.stick)?;
    ensure!(said["state"] == "done", "not completed: {said}");
    site.stick.read_back(&site.folder)?;
    harmless(&exported, &site.folder)?;
    site.import()?;
    let (status, shown) = (local(&mut site.vm)?, site::node(&site.hub, &site.id)?);
    ensure!(status["generation"] == shown["desired_generation"], "behind: {status}, {shown}");
    Ok(())
}

/// Everything but the outbox is as it was exported.
fn harmless(exported: &Path, folder: &Path) -> Result<()> {
    run(Command::new("diff").args(["-r", "-q", "--exclude=outbox"]).arg(exported).arg(folder)).map(drop)
}
