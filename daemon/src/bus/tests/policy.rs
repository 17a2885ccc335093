//! The policy file as it is shipped, in force on a bus that otherwise allows nothing, as the system's does.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// The default policy of Debian's `system.conf`.
const SYSTEM: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <auth>EXTERNAL</auth>
  <listen>unix:path=SOCKET</listen>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
  </policy>
  <include>POLICY</include>
</busconfig>
"#;

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../dist/node/usr/share/dbus-1/system.d/org.cairn.Node1.conf")
        .canonicalize()
        .unwrap()
}

/// A bus with the shipped policy, in a folder that everybody may enter.
fn system_bus() -> (tempfile::TempDir, Bus) {
    assert!(nix::unistd::geteuid().is_root(), "only root can be somebody else: run these tests as root");
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let socket = folder.path().join("bus");
    let policy = folder.path().join("policy.conf");
    std::fs::copy(shipped(), &policy).unwrap();
    let config = folder.path().join("bus.conf");
    let text = SYSTEM
        .replace("SOCKET", &socket.display().to_string())
        .replace("POLICY", &policy.display().to_string());
    std::fs::write(&config, text).unwrap();
    let bus = Bus::start(&[&format!("--config-file={}", config.display())]);
    (folder, bus)
}

/// A call by a user who is not root.
async fn call_as_nobody(bus: &Bus, destination: &str, rest: &[&str]) -> Output {
    tokio::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "dbus-send", "--print-reply"])
        .arg(format!("--bus={}", bus.address))
        .arg(format!("--dest={destination}"))
        .args(rest)
        .output()
        .await
        .expect("setpriv and dbus-send run: install Debian's packages util-linux and dbus-bin")
}

#[tokio::test]
async fn only_root_may_call_and_read() {
    let (_folder, bus) = system_bus();
    let mut served = Served::on(bus, Some(os_status(OsState::Idle))).await;
    let installer = "de.pengutronix.rauc.Installer";
    let get = "org.freedesktop.DBus.Properties.Get";
    for (destination, rest) in [
        (NAME, vec![NODE_PATH, "org.cairn.Node1.OsApply"]),
        (NAME, vec![NODE_PATH, get, "string:org.cairn.Node1", "string:Status"]),
        (NAME, vec![NODE_PATH, "org.freedesktop.DBus.Introspectable.Introspect"]),
        (RAUC_NAME, vec![RAUC_PATH, "de.pengutronix.rauc.Installer.Install", "string:/tmp"]),
        (RAUC_NAME, vec![RAUC_PATH, get, "string:de.pengutronix.rauc.Installer", "string:LastError"]),
        (RAUC_NAME, vec![NODE_PATH, "org.cairn.Node1.OsApply"]),
    ] {
        let output = call_as_nobody(&served.bus, destination, &rest).await;
        let shown = text(&output.stderr);
        assert!(!output.status.success() && shown.contains("AccessDenied"), "{rest:?}: {shown}");
    }
    assert!(served.requests.try_recv().is_err(), "none of it reached the OS task");
    // The bus itself answers that user, and root reaches the node.
    let output = call_as_nobody(
        &served.bus,
        "org.freedesktop.DBus",
        &["/org/freedesktop/DBus", "org.freedesktop.DBus.ListNames"],
    )
    .await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let root = served.bus.client().await;
    let proxy = Proxy::new(&root, RAUC_NAME, RAUC_PATH, installer).await.unwrap();
    assert_eq!(proxy.get_property::<String>("Compatible").await.unwrap(), "cairn-generic-amd64");
    served.end().await;
}

#[tokio::test]
async fn nobody_else_owns_the_names() {
    let (_folder, bus) = system_bus();
    for name in [NAME, RAUC_NAME] {
        let rest = [
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus.RequestName",
            &format!("string:{name}"),
            "uint32:0",
        ];
        let output = call_as_nobody(&bus, "org.freedesktop.DBus", &rest).await;
        let shown = text(&output.stderr);
        assert!(!output.status.success() && shown.contains("AccessDenied"), "{name}: {shown}");
    }
}

#[tokio::test]
async fn nobody_else_hears_the_signals() {
    let (_folder, bus) = system_bus();
    let served = Served::on(bus, Some(os_status(OsState::Idle))).await;
    let mut monitor = tokio::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "dbus-monitor"])
        .args(["--address", &served.bus.address, "type='signal'"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("dbus-monitor runs: install Debian's package dbus-bin");
    use tokio::io::AsyncBufReadExt;
    let mut lines = tokio::io::BufReader::new(monitor.stdout.take().unwrap()).lines();
    // It listens once it has been told its own name.
    while !soon(lines.next_line()).await.unwrap().unwrap().contains("NameAcquired") {}
    let root = served.bus.client().await;
    let mut told = client::progress(&served.bus).await;
    served.publish(|os| (os.state, os.progress) = (OsState::Fetching, Some(written(500))));
    told.wait_for(47).await;
    // What root says to all afterwards, that user hears: so what is missing before it was kept from them.
    root.emit_signal(None::<&str>, "/", "org.example.Probe", "Heard", &()).await.unwrap();
    loop {
        let line = soon(lines.next_line()).await.unwrap().unwrap();
        assert!(!line.contains("PropertiesChanged"), "{line}");
        if line.contains("org.example.Probe") {
            break;
        }
    }
    served.end().await;
}
