//! A node that has a fleet takes nothing of another one, however well signed; nor what is another node's; and it finds its
//! own among that of many.

use std::fs;

use anyhow::{Context, Result, ensure};
use cairn_model::{
    enroll::{EnrollRequest, SCHEMA},
    facts::Facts,
};
use cairn_tests_vm::{
    Hub, Lab, Site, Stick,
    site::{self, copy, export, import, local},
    stick::Form,
};
use cairn_trust::{envelope::sign_enroll, keys::KeyPair};

#[test]
fn stick_wrong_fleet() -> Result<()> {
    let lab = Lab::new("stick-wrong-fleet")?;
    let mut site = Site::blank(&lab, &[])?;
    site.visit()?;
    // The thief reads the node's request from the stick as well, and makes it a member of his own fleet.
    let thief = lab.hub_named("other-hub")?;
    for hub in [&thief, &site.hub] {
        import(hub, &site.folder)?;
        hub.cairn(&["node", "approve", &site.id])?;
    }
    site::deploy(&lab, &site.hub, 1)?;
    site.round()?;
    site::wait_answer(&mut site.vm, 8081, "WebAssembly")?;
    site::deploy(&lab, &thief, 666)?;
    let theirs = lab.dir().join("theirs");
    export(&thief, &theirs, &[&site.id])?;

    let stick = Stick::make(lab.dir().join("hostile.img"), Form::Superfloppy, 256)?;
    stick.fill(&theirs)?;
    site.ensure_refused(&stick, &["fleet"])?;

    // Our director's word with their idea of what is genuine, and the other way round.
    let mixed = lab.dir().join("mixed");
    let (ours, artifacts) = (site.folder.clone(), "tuf/artifacts");
    for (base, from) in [(&ours, &theirs), (&theirs, &ours)] {
        copy(base, &mixed)?;
        copy(&from.join(artifacts), &mixed.join(artifacts))?;
        stick.fill(&mixed)?;
        site.ensure_refused(&stick, &[])?;
    }

    // What is meant for another node of the same fleet, under this one's name.
    let other = another_node(&lab, &site.hub)?;
    let others = lab.dir().join("others");
    export(&site.hub, &others, &[&other])?;
    fs::rename(others.join("tuf/director").join(&other), others.join("tuf/director").join(&site.id))?;
    stick.fill(&others)?;
    site.ensure_refused(&stick, &["node"])?;

    // A stick that is for others only: nothing for this node, and nothing wrong with that.
    export(&site.hub, &others, &[&other])?;
    fs::remove_dir_all(others.join("tuf/director").join(&site.id)).ok();
    stick.fill(&others)?;
    site.ensure_refused(&stick, &["nothing for this node", &site.id.clone()])?;

    // Five fleets on one stick, ours among them: its own is found.
    site::redeploy(&lab, &site.hub, 2)?;
    site.export()?;
    let many = lab.dir().join("many");
    copy(&site.folder, &many)?;
    for fleet in 0..4 {
        copy(
            &theirs.join("tuf/director").join(&site.id),
            &many.join("tuf/director").join(format!("n-{fleet:016x}")),
        )?;
    }
    copy(&theirs.join("enroll"), &many.join("enroll"))?;
    stick.fill(&many)?;
    let said = site::show(&mut site.vm, &stick)?;
    ensure!(said["state"] == "done", "its own was not found: {said}");
    let shown = site::node(&site.hub, &site.id)?;
    ensure!(local(&mut site.vm)?["generation"] == shown["desired_generation"], "not applied: {said}");
    site::wait_answer(&mut site.vm, 8081, "WebAssembly")
}

/// A second member of the fleet, which asks by a stick of its own; its id.
fn another_node(lab: &Lab, hub: &Hub) -> Result<String> {
    let key = KeyPair::generate()?;
    let request = EnrollRequest {
        schema: SCHEMA,
        token: String::new(),
        public_key: key.public().to_base64url(),
        facts: Facts {
            schema: 1,
            hostname: "other".to_owned(),
            arch: "amd64".to_owned(),
            ..Facts::default()
        },
    };
    let id = key.public().node_id().to_string();
    let folder = lab.dir().join("request");
    export(hub, &folder, &[])?;
    fs::create_dir_all(folder.join("outbox").join(&id))?;
    fs::write(folder.join("outbox").join(&id).join("enroll.jws"), sign_enroll(&key, &request)?)?;
    let imported = import(hub, &folder)?;
    let known = imported["enrolled"][0]["id"].as_str().context("no request was found")?;
    ensure!(known == id, "another id: {imported}");
    hub.cairn(&["node", "approve", &id])?;
    Ok(id)
}
