//! Debian's `rauc`, which is a client of the interface, against ours.

use super::*;

/// Runs `rauc` against the bus while the test goes on.
fn start_rauc(bus: &Bus, arguments: &[&str]) -> JoinHandle<Output> {
    let mut command = tokio::process::Command::new("rauc");
    command
        .args(arguments)
        .env("DBUS_STARTER_BUS_TYPE", "session")
        .env("DBUS_SESSION_BUS_ADDRESS", &bus.address)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    tokio::spawn(async move { command.output().await.expect("rauc runs: install Debian's package rauc") })
}

fn layout() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap().to_owned();
    (folder, path)
}

#[tokio::test]
async fn rauc_install_reports_a_release_that_is_not_genuine() {
    let mut served = Served::start().await;
    let (_folder, path) = layout();
    let rauc = start_rauc(&served.bus, &["install", &path]);
    let OsRequest::Install { source, reply, .. } = served.asked().await else { panic!("no installation") };
    assert_eq!(source, Source::Folder(path.clone().into()));
    let reason =
        "release sha256:ab is not signed by the operators of this node; sign it with cairn artifact sign";
    reply.send(Err(reason.to_owned())).unwrap();
    let output = soon(rauc).await.unwrap();
    let shown = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(shown.contains(&format!("LastError: {reason}")), "{shown}");
    assert!(shown.contains("100% Installing failed.") && shown.contains("failed\n"), "{shown}");
    served.end().await;
}

#[tokio::test]
async fn rauc_install_follows_an_installation_to_its_end() {
    let mut served = Served::start().await;
    let (_folder, path) = layout();
    let rauc = start_rauc(&served.bus, &["install", &path]);
    let OsRequest::Install { digest, reply, .. } = served.asked().await else { panic!("no installation") };
    assert_eq!(digest, None);
    let mut told = client::progress(&served.bus).await;
    for (state, progress, percent) in [
        (OsState::Fetching, Some(written(100)), 9),
        (OsState::Fetching, Some(written(1000)), 95),
        (OsState::Armed, None, 100),
    ] {
        served.publish(|os| {
            (os.state, os.progress, os.target) = (state, progress, Some("0.2.0".parse().unwrap()));
        });
        if percent < 100 {
            told.wait_for(percent).await;
        }
    }
    reply.send(Ok(())).unwrap();
    let output = soon(rauc).await.unwrap();
    let (out, shown) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}{shown}");
    for line in [
        "installing\n",
        "  0% Installing\n",
        "  9% Writing release 0.2.0 to slot b as a patch\n",
        " 95% Writing release 0.2.0 to slot b as a patch\n",
        "100% Installing done.\n",
        "idle\n",
        "succeeded\n",
    ] {
        assert!(out.contains(line), "{line:?} is not in {out}{shown}");
    }
    served.end().await;
}

/// Answers what `rauc status` asks, in whichever order, until it is done.
async fn answer(
    requests: &mut mpsc::Receiver<OsRequest>,
    rauc: JoinHandle<Output>,
) -> (Output, Vec<(Slot, Mark)>) {
    let mut marked = Vec::new();
    let mut rauc = rauc;
    loop {
        let request = tokio::select! {
            output = &mut rauc => return (output.unwrap(), marked),
            Some(request) = requests.recv() => request,
        };
        match request {
            OsRequest::Slots { reply } => reply.send(Ok(slots())).unwrap(),
            OsRequest::Primary { reply } => reply.send(Ok(Slot::B)).unwrap(),
            OsRequest::Mark { slot, how, reply } => {
                marked.push((slot, how));
                let answer = if (slot, how) == (Slot::A, Mark::Bad) {
                    Err("slot a is the only one that boots; install another release first".to_owned())
                } else {
                    Ok(())
                };
                reply.send(answer).unwrap();
            }
            other => panic!("nobody asked for {other:?}"),
        }
    }
}

#[tokio::test]
async fn rauc_status_shows_both_slots() {
    let mut served = Served::start().await;
    let rauc = start_rauc(&served.bus, &["status", "--detailed", "--output-format=json"]);
    let (output, _) = answer(&mut served.requests, rauc).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["compatible"], "cairn-generic-amd64");
    assert_eq!((&status["booted"], &status["boot_primary"]), (&"a".into(), &"rootfs.1".into()));
    let slots = status["slots"].as_array().unwrap();
    let slot = |name: &str| slots.iter().find_map(|slot| slot.get(name)).unwrap();
    assert_eq!(slot("rootfs.0")["state"], "booted");
    assert_eq!(slot("rootfs.1")["state"], "inactive");
    assert_eq!(slot("rootfs.1")["boot_status"], "good");
    assert_eq!(slot("rootfs.1")["slot_status"]["bundle"]["version"], "0.2.0");
    served.end().await;
}

#[tokio::test]
async fn rauc_marks_slots_and_shows_why_not() {
    let mut served = Served::start().await;
    for (arguments, expected, message) in [
        (["status", "mark-active", "other"], (Slot::B, Mark::Active), "activated slot rootfs.1"),
        (["status", "mark-good", "booted"], (Slot::A, Mark::Good), "marked slot rootfs.0 as good"),
        (["status", "mark-bad", "rootfs.1"], (Slot::B, Mark::Bad), "marked slot rootfs.1 as bad"),
    ] {
        let rauc = start_rauc(&served.bus, &arguments);
        let (output, marked) = answer(&mut served.requests, rauc).await;
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(marked, [expected]);
        assert!(text(&output.stdout).contains(message), "{}", text(&output.stdout));
    }
    for (slot, reason) in
        [("booted", "the only one that boots; install another"), ("rootfs.2", "use booted, other")]
    {
        let rauc = start_rauc(&served.bus, &["status", "mark-bad", slot]);
        let (output, _) = answer(&mut served.requests, rauc).await;
        assert!(!output.status.success());
        assert!(text(&output.stderr).contains(reason), "{}", text(&output.stderr));
    }
    served.end().await;
}
