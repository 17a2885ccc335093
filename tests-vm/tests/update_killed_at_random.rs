//! The power goes at random instants of updates, again and again: the node always starts, every update ends well by itself,
//! and no report that the hub has acknowledged is lost, nor its number used again.
//!
//! `CAIRN_KILLS` is how often (3 where absent), `CAIRN_SEED` what chance begins with.

use std::{collections::BTreeMap, env, time::Duration};

use anyhow::{Context, Result, ensure};
use cairn_tests_vm::{
    Hub, Lab,
    lab::wait_node,
    os::{self, UPDATE_DEADLINE},
    shop, wait,
};
use fastrand::Rng;
use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::runtime::Builder;

/// From `cairn os set` until the release is kept takes about as long.
const UPDATE_SECONDS: u64 = 120;

/// Cuts that one update has to bear. Each may use up a try of the new OS, which has three: a third cut is a fair reason to
/// go back to the old one, and no update would have to end well.
const KILLS_PER_UPDATE: u64 = 2;

/// What the hub has acknowledged of its one node.
#[derive(Debug, Clone)]
struct Acknowledged {
    /// The number of the last report.
    last: i64,
    /// Each event by its report's number and its place in that.
    events: BTreeMap<(i64, i64), String>,
}

impl Acknowledged {
    fn read(hub: &Hub) -> Result<Self> {
        let options =
            SqliteConnectOptions::new().filename(hub.data().join("hub.sqlite")).create_if_missing(false);
        Builder::new_current_thread().enable_all().build()?.block_on(async {
            let mut database = SqliteConnection::connect_with(&options).await?;
            let row = sqlx::query("SELECT MAX(acknowledged) FROM node").fetch_one(&mut database).await?;
            let query = "SELECT sequence, position, time, reason, message FROM event";
            let rows = sqlx::query(query).fetch_all(&mut database).await?;
            let events = rows.iter().map(|row| {
                let (time, reason, message): (i64, String, String) = (row.get(2), row.get(3), row.get(4));
                ((row.get(0), row.get(1)), format!("{time} {reason}: {message}"))
            });
            let found = Self { last: row.get(0), events: events.collect() };
            database.close().await?;
            Ok(found)
        })
    }

    /// Nothing of `earlier` is gone, and what came since has numbers of its own.
    fn ensure_after(&self, earlier: &Self) -> Result<()> {
        ensure!(self.last >= earlier.last, "acknowledged went back from {} to {}", earlier.last, self.last);
        for (place, event) in &earlier.events {
            ensure!(self.events.get(place) == Some(event), "event {place:?} is gone: {event}");
        }
        for (place, event) in self.events.iter().filter(|(place, _)| !earlier.events.contains_key(place)) {
            ensure!(place.0 > earlier.last, "report {} came after {}: {event}", place.0, earlier.last);
        }
        Ok(())
    }
}

#[test]
fn update_killed_at_random() -> Result<()> {
    let number = |name: &str, default: u64| env::var(name).map_or(Ok(default), |text| text.parse());
    let (kills, seed) = (number("CAIRN_KILLS", 3)?, number("CAIRN_SEED", 1)?);
    println!("{kills} kills, seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let lab = Lab::new("update-killed")?;
    let (hub, mut vm) = lab.enrolled(&[8080])?;
    shop::open(&lab, &hub, &mut vm)?;
    for name in ["base", "good"] {
        os::push(&lab, &hub, name)?;
    }
    let mut targets = ["0.2.0", "0.1.0"].into_iter().cycle();
    let mut next = || -> Result<&str> {
        let target = targets.next().context("there is no end to them")?;
        hub.cairn(&["os", "set", target, "--all", "--allow-downgrade"])?;
        Ok(target)
    };
    let (mut target, mut borne) = (next()?, 0);
    for kill in 1..=kills {
        if borne == KILLS_PER_UPDATE {
            os::wait_state(&hub, target, "good", UPDATE_DEADLINE)?;
            (target, borne) = (next()?, 0);
        }
        // A random instant, unless the update is through before: then the next one begins.
        let instant = Duration::from_millis(rng.u64(1000..UPDATE_SECONDS * 1000));
        if os::wait_state(&hub, target, "good", instant).is_ok() {
            (target, borne) = (next()?, 0);
        }
        borne += 1;
        let last = os::status(&hub)?;
        vm = vm.power_cycle()?;
        // Firmware and kernel take a while: nothing comes in between the cut and this.
        let before = Acknowledged::read(&hub)?;
        let case = || format!("kill {kill} of {kills}, seed {seed}, after {last}");
        vm.wait_booted().with_context(case)?;
        shop::ensure_open(&mut vm).with_context(case)?;
        // The node goes on behind what it had told: a number of before would be taken for a repetition, and not be stored.
        let after = wait::until("reports of this boot", UPDATE_DEADLINE, || {
            Ok(Some(Acknowledged::read(&hub)?).filter(|now| now.last > before.last))
        });
        after.and_then(|after| after.ensure_after(&before)).with_context(case)?;
    }
    let before = Acknowledged::read(&hub)?;
    os::wait_state(&hub, target, "good", UPDATE_DEADLINE)
        .context("the last update does not end by itself")?;
    wait_node(&hub, |node| node["online"] == true)?;
    // The hub takes none that comes after a gap: once nothing is left to send, there was none.
    wait::until("every report to arrive", UPDATE_DEADLINE, || {
        let unsent = vm.run("cairn local status")?.text;
        Ok(unsent
            .lines()
            .any(|line| line.starts_with("Unsent reports:") && line.ends_with(" 0"))
            .then_some(()))
    })?;
    let all = Acknowledged::read(&hub)?;
    all.ensure_after(&before)?;
    let back = all.events.values().find(|event| event.contains(" os-rolled-back: "));
    ensure!(back.is_none(), "no update had a reason to go back: {back:?}");
    let entries = vm.check("ls /boot/EFI/Linux")?;
    ensure!(entries.contains(&format!("cairn_{target}.efi")), "it is not kept: {entries}");
    shop::ensure_open(&mut vm)
}
