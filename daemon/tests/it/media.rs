//! Sticks as plain folders, which the supervisor for developers' machines takes for them: the built program, from
//! `cairnd media attach` to what lies on the stick.

use cairn_model::{
    local::LocalStatus,
    media::{MediaState, MediaStatus, RECEIPT},
};

use super::*;

/// A stick below the daemon's folder of mount points.
fn stick(root: &Path, name: &str, ours: bool) -> std::path::PathBuf {
    let point = root.join("run/media").join(name);
    fs::create_dir_all(&point).unwrap();
    fs::write(point.join(if ours { RECEIPT } else { "holiday.jpg" }), "{}").unwrap();
    point
}

fn attach(root: &Path, device: &str) -> Output {
    let socket = root.join("run/cairnd.sock");
    cairnd(root).args(["media", "attach", device, "--socket"]).arg(socket).output().unwrap()
}

fn through(root: &Path, device: &str) -> (LocalStatus, MediaStatus) {
    let begun = Instant::now();
    loop {
        let status = status(root);
        let media = status.media.clone().filter(|media| media.removable && media.device == device);
        if let Some(media) = media {
            return (status, media);
        }
        assert!(begun.elapsed() < DEADLINE, "{:?}", status.media);
        std::thread::yield_now();
    }
}

#[test]
fn a_blank_node_asks_by_any_stick_of_cairns_and_leaves_others_alone() {
    let root = root("");
    let point = stick(root.path(), "sda1", true);
    // Nobody is there to be told, which is no failure: what is mounted is found at the start.
    assert!(attach(root.path(), "sda1").status.success());
    let _daemon = Daemon::start(root.path());
    let (status, media) = through(root.path(), "sda1");
    assert_eq!(media.state, MediaState::Done, "{media:?}");
    let said = media.messages.join("\n");
    assert!(said.contains(&status.fingerprint) && said.contains(status.node.as_str()), "{said}");
    let outbox = point.join("outbox").join(status.node.as_str());
    assert!(fs::read_to_string(outbox.join("enroll.jws")).unwrap().split('.').count() == 3);
    assert_eq!(fs::read_dir(outbox).unwrap().count(), 1);

    let foreign = stick(root.path(), "sdb1", false);
    let told = attach(root.path(), "sdb1");
    assert!(told.status.success(), "{}", text(&told.stderr));
    let (_, media) = through(root.path(), "sdb1");
    assert_eq!(media.state, MediaState::Foreign, "{media:?}");
    assert_eq!(fs::read_dir(foreign).unwrap().count(), 1);
}

#[test]
fn a_device_that_leads_elsewhere_is_refused() {
    let root = root("");
    for command in ["attach", "mount"] {
        let output = cairnd(root.path()).args(["media", command, "../../etc"]).output().unwrap();
        assert!(!output.status.success());
        assert!(
            text(&output.stderr).contains("is not the name of a block device"),
            "{}",
            text(&output.stderr)
        );
    }
}

#[test]
fn the_lamp_is_named_by_the_configuration() {
    let lit = root("[media]\nled = 'there-is-no-such-lamp'\n");
    let output = cairnd(lit.path()).args(["media", "led", "busy"]).output().unwrap();
    assert!(text(&output.stderr).contains("failed to set the lamp there-is-no-such-lamp"));
    let none = root("");
    assert!(cairnd(none.path()).args(["media", "led", "off"]).output().unwrap().status.success());
    let bad = root("[media]\nled = '../../../etc'\n");
    let output = check_config(bad.path());
    assert!(text(&output.stderr).contains("below /sys/class/leds"), "{}", text(&output.stderr));
}
