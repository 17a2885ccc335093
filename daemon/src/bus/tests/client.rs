//! A client of our own: what `rauc` does not call, signals in their order, and what is refused.

use std::collections::BTreeMap;

use zbus::{message::Type, zvariant::Value};

use super::*;

async fn installer(client: &zbus::Connection) -> Proxy<'static> {
    Proxy::new(client, RAUC_NAME, RAUC_PATH, "de.pengutronix.rauc.Installer").await.unwrap()
}

async fn node(client: &zbus::Connection) -> Proxy<'static> {
    Proxy::new(client, NAME, NODE_PATH, "org.cairn.Node1").await.unwrap()
}

fn refusal(error: &zbus::Error) -> String {
    match error {
        zbus::Error::MethodError(_, Some(text), _) => text.clone(),
        other => panic!("no refusal: {other}"),
    }
}

/// Everything that the node's connection signals, in order.
pub(super) struct Told(zbus::MessageStream);

impl Told {
    async fn on(client: &zbus::Connection) -> Self {
        let rule = zbus::MatchRule::builder().msg_type(Type::Signal).sender(NAME).unwrap().build();
        Self(zbus::MessageStream::for_match_rule(rule, client, Some(256)).await.unwrap())
    }

    /// The next signal: a property and its value, or the signal's own name.
    async fn next(&mut self) -> (String, String) {
        let message = soon(self.0.next()).await.unwrap().unwrap();
        let member = message.header().member().unwrap().to_string();
        if member != "PropertiesChanged" {
            return (member, message.body().deserialize::<i32>().unwrap().to_string());
        }
        let body = message.body();
        let (_, changed, gone): (String, BTreeMap<String, OwnedValue>, Vec<String>) =
            body.deserialize().unwrap();
        // RAUC's command line takes an invalidated property for a service that has ended.
        assert!(gone.is_empty() && changed.len() == 1, "{changed:?} {gone:?}");
        let (name, value) = changed.into_iter().next().unwrap();
        (name, format!("{:?}", Value::from(value)))
    }

    pub(super) async fn wait_for(&mut self, percent: i32) {
        loop {
            let (name, value) = self.next().await;
            if name == "Progress" && value.contains(&format!("I32({percent})")) {
                return;
            }
        }
    }

    /// Names up to and including the signal `Completed`, those of our own interface left out.
    async fn until_completed(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        loop {
            let (name, value) = self.next().await;
            match name.as_str() {
                "Os" => {}
                "Completed" => {
                    names.push(format!("Completed {value}"));
                    return names;
                }
                _ => names.push(name),
            }
        }
    }
}

pub(super) async fn progress(bus: &Bus) -> Told {
    Told::on(&bus.client().await).await
}

#[tokio::test]
async fn the_interface_has_raucs_signatures() {
    let served = Served::start().await;
    let client = served.bus.client().await;
    let proxy = Proxy::new(&client, RAUC_NAME, RAUC_PATH, "de.pengutronix.rauc.Installer").await.unwrap();
    let xml = proxy.introspect().await.unwrap();
    let interface = xml.split("<interface name=\"de.pengutronix.rauc.Installer\">").nth(1).unwrap();
    let interface = interface.split("</interface>").next().unwrap();
    let attribute = |line: &str, name: &str| {
        line.split(&format!("{name}=\"")).nth(1).map(|rest| rest.split('"').next().unwrap().to_owned())
    };
    let mut found = BTreeMap::new();
    let mut member = String::new();
    for line in interface.lines().map(str::trim) {
        if line.starts_with("<method") || line.starts_with("<signal") {
            member = attribute(line, "name").unwrap();
            found.insert(member.clone(), String::new());
        } else if line.starts_with("<property") {
            let signature = attribute(line, "type").unwrap() + &attribute(line, "access").unwrap();
            found.insert(attribute(line, "name").unwrap(), signature);
        } else if line.starts_with("<arg") {
            let arrow = if attribute(line, "direction").as_deref() == Some("in") { "<" } else { ">" };
            let signature = found.get_mut(&member).unwrap();
            *signature += &format!("{arrow}{}", attribute(line, "type").unwrap());
        }
    }
    let expected = [
        ("BootSlot", "sread"),
        ("Compatible", "sread"),
        ("Completed", ">i"),
        ("GetArtifactStatus", ">aa{sv}"),
        ("GetPrimary", ">s"),
        ("GetSlotStatus", ">a(sa{sv})"),
        ("Info", "<s>s>s"),
        ("InspectBundle", "<s<a{sv}>a{sv}"),
        ("Install", "<s"),
        ("InstallBundle", "<s<a{sv}"),
        ("LastError", "sread"),
        ("Mark", "<s<s>s>s"),
        ("Operation", "sread"),
        ("Progress", "(isi)read"),
        ("SystemVersion", "sread"),
        ("Variant", "sread"),
    ];
    let expected = expected.map(|(name, signature)| (name.to_owned(), signature.to_owned()));
    assert_eq!(found, BTreeMap::from(expected), "{interface}");
    served.end().await;
}

#[tokio::test]
async fn no_option_and_no_address_gets_past_the_checks() {
    let mut served = Served::start().await;
    let client = served.bus.client().await;
    let installer = installer(&client).await;
    let nothing = Dict::new();
    let ignore: Dict = Dict::from([("ignore-compatible".to_owned(), Value::from(true).try_into().unwrap())]);
    for (source, args, reason) in [
        ("/media/stick", &ignore, "always checked"),
        ("https://example.org/update.raucb", &nothing, "asks no address"),
        ("update.raucb", &nothing, "give an absolute path"),
    ] {
        let error = installer.call::<_, _, ()>("InstallBundle", &(source, args)).await.unwrap_err();
        assert!(refusal(&error).contains(reason), "{error}");
    }
    let error = installer.call::<_, _, Dict>("InspectBundle", &("ftp://x/", &nothing)).await.unwrap_err();
    assert!(refusal(&error).contains("asks no address"), "{error}");
    assert!(served.requests.try_recv().is_err(), "none of it reached the OS task");
    assert_eq!(installer.get_property::<String>("Operation").await.unwrap(), "idle");
    served.end().await;
}

#[tokio::test]
async fn a_second_installation_is_refused_while_one_runs() {
    let mut served = Served::start().await;
    let client = served.bus.client().await;
    let installer = installer(&client).await;
    let mut told = Told::on(&client).await;
    installer.call::<_, _, ()>("Install", &"cairn:0.2.0").await.unwrap();
    let OsRequest::Install { source, reply, .. } = served.asked().await else { panic!() };
    assert_eq!(source, Source::Version("0.2.0".parse().unwrap()));
    let error = installer.call::<_, _, ()>("Install", &"cairn:0.3.0").await.unwrap_err();
    assert!(refusal(&error).contains("already processing a different method"), "{error}");
    reply.send(Err("refused; cure".to_owned())).unwrap();
    assert_eq!(
        told.until_completed().await,
        ["Operation", "Progress", "Progress", "LastError", "Operation", "Completed 1"]
    );
    assert_eq!(installer.get_property::<String>("LastError").await.unwrap(), "refused; cure");
    // The next one has its way, with the digest that the caller insists on.
    let hash: Dict =
        Dict::from([("require-manifest-hash".to_owned(), Value::from("ab".repeat(32)).try_into().unwrap())]);
    installer.call::<_, _, ()>("InstallBundle", &("file:///media/stick", hash)).await.unwrap();
    let OsRequest::Install { digest: wanted, reply, .. } = served.asked().await else { panic!() };
    assert_eq!(wanted, Some(digest()));
    reply.send(Ok(())).unwrap();
    assert_eq!(
        told.until_completed().await,
        ["Operation", "Progress", "LastError", "Progress", "Operation", "Completed 0"]
    );
    served.end().await;
}

#[tokio::test]
async fn an_installation_that_the_hub_wants_is_seen_too() {
    let served = Served::start().await;
    let client = served.bus.client().await;
    let installer = installer(&client).await;
    let mut told = Told::on(&client).await;
    served.publish(|os| (os.state, os.progress) = (OsState::Fetching, Some(written(500))));
    told.wait_for(47).await;
    assert_eq!(installer.get_property::<String>("Operation").await.unwrap(), "installing");
    let error = installer.call::<_, _, ()>("Install", &"cairn:0.3.0").await.unwrap_err();
    assert!(refusal(&error).contains("already processing"), "{error}");
    served.publish(|os| (os.state, os.progress) = (OsState::Armed, None));
    assert_eq!(told.until_completed().await.last().unwrap(), "Completed 0");
    assert_eq!(installer.get_property::<String>("Operation").await.unwrap(), "idle");
    served.end().await;
}

#[tokio::test]
async fn a_release_is_inspected_in_raucs_words() {
    let mut served = Served::start().await;
    let client = served.bus.client().await;
    let installer = installer(&client).await;
    let asked = tokio::spawn(async move {
        let args = ("/media/stick", Dict::new());
        let info = installer.call::<_, _, Dict>("InspectBundle", &args).await.unwrap();
        (info, installer.call::<_, _, (String, String)>("Info", &"/media/stick").await.unwrap())
    });
    for _ in 0..2 {
        let OsRequest::Inspect { source, reply } = served.asked().await else { panic!() };
        assert_eq!(source, Source::Folder("/media/stick".into()));
        reply.send(Ok(inspected())).unwrap();
    }
    let (info, short) = soon(asked).await.unwrap();
    assert_eq!(short, ("cairn-generic-amd64".to_owned(), "0.2.0".to_owned()));
    assert_eq!(String::try_from(info["manifest-hash"].clone()).unwrap(), "ab".repeat(32));
    // A variant in a variant, as RAUC has it.
    let Value::Value(update) = &*info["update"] else { panic!("{info:?}") };
    let update: Dict = update.try_clone().unwrap().try_into().unwrap();
    assert_eq!(String::try_from(update["version"].clone()).unwrap(), "0.2.0");
    assert_eq!(String::try_from(update["description"].clone()).unwrap(), "less to break");
    served.end().await;
}

#[tokio::test]
async fn our_own_interface_shows_every_step_and_applies() {
    let mut served = Served::start().await;
    let client = served.bus.client().await;
    let node = node(&client).await;
    let status: LocalStatus =
        serde_json::from_str(&node.get_property::<String>("Status").await.unwrap()).unwrap();
    assert_eq!(status, local_status());
    let mut told = Told::on(&client).await;
    served.publish(|os| (os.state, os.progress) = (OsState::Fetching, Some(written(500))));
    let os = loop {
        let (name, value) = told.next().await;
        if name == "Os" {
            break value;
        }
    };
    for part in ["\"fetching\"", "\"written\"", "U64(500)", "\"patch\"", "\"slot\"", "\"a\""] {
        assert!(os.contains(part), "{part}: {os}");
    }
    let asked = tokio::spawn(async move {
        (node.call::<_, _, ()>("OsApply", &()).await, node.call::<_, _, ()>("OsApply", &()).await)
    });
    let OsRequest::Apply { reply } = served.asked().await else { panic!() };
    reply.send(Err("no OS stands written; set one with cairn os set".to_owned())).unwrap();
    let OsRequest::Apply { reply } = served.asked().await else { panic!() };
    reply.send(Ok(())).unwrap();
    let (first, second) = soon(asked).await.unwrap();
    assert!(refusal(&first.unwrap_err()).contains("cairn os set"));
    second.unwrap();
    served.end().await;
}

#[test]
fn less_than_a_percent_is_no_news() {
    let at = |written: u64, rate| OsStatus {
        progress: Some(OsProgress { rate, ..super::written(written) }),
        ..os_status(OsState::Fetching)
    };
    assert!(!node::is_news(Some(&at(500, 1)), Some(&at(509, 2))));
    assert!(node::is_news(Some(&at(500, 1)), Some(&at(510, 1))));
    assert!(node::is_news(Some(&at(500, 1)), Some(&os_status(OsState::Written))));
    assert!(node::is_news(None, Some(&os_status(OsState::Idle))));
}

#[tokio::test]
async fn a_node_that_does_not_update_its_os_leaves_rauc_its_name() {
    let mut served = Served::on(Bus::session(), None).await;
    let client = served.bus.client().await;
    let bus = zbus::fdo::DBusProxy::new(&client).await.unwrap();
    let node = node(&client).await;
    assert!(node.get_property::<Dict>("Os").await.unwrap().is_empty());
    // Such a node has no OS task.
    served.requests.close();
    let error = node.call::<_, _, ()>("OsApply", &()).await.unwrap_err();
    assert!(refusal(&error).contains("cairn-image flash"), "{error}");
    assert!(!bus.name_has_owner(RAUC_NAME.try_into().unwrap()).await.unwrap());
    served.end().await;
}

#[tokio::test]
async fn a_stick_is_a_property_and_each_percent_of_it_a_signal() {
    let served = Served::start().await;
    let client = served.bus.client().await;
    let node = node(&client).await;
    assert!(node.get_property::<Dict>("Media").await.unwrap().is_empty());
    let mut told = Told::on(&client).await;
    let at = |copied| MediaStatus {
        device: "sdb1".to_owned(),
        state: MediaState::Copying,
        removable: false,
        messages: vec!["two".to_owned()],
        copied,
        to_copy: 1000,
    };
    served.stick.send_replace(Some(at(500)));
    let media = loop {
        let (name, value) = told.next().await;
        if name == "Media" {
            break value;
        }
    };
    for part in ["\"sdb1\"", "\"copying\"", "U64(500)", "Bool(false)", "\"two\""] {
        assert!(media.contains(part), "{part}: {media}");
    }
    assert!(!node::is_stick_news(Some(&at(500)), Some(&at(509))));
    assert!(node::is_stick_news(Some(&at(500)), Some(&at(510))));
    assert!(node::is_stick_news(Some(&at(500)), Some(&MediaStatus { removable: true, ..at(500) })));
    served.end().await;
}

#[tokio::test]
async fn a_bus_that_went_away_is_served_again_and_the_installation_ends() {
    let folder = tempfile::tempdir().unwrap();
    let listen = format!("--address=unix:path={}", folder.path().join("bus").display());
    let mut served = Served::on(Bus::start(&["--session", &listen]), Some(os_status(OsState::Idle))).await;
    let client = served.bus.client().await;
    installer(&client).await.call::<_, _, ()>("Install", &"/media/stick").await.unwrap();
    let OsRequest::Install { reply, .. } = served.asked().await else { panic!() };
    served.bus.child.kill().unwrap();
    served.bus.child.wait().unwrap();
    std::fs::remove_file(folder.path().join("bus")).unwrap();
    served.bus = Bus::start(&["--session", &listen]);
    let client = served.bus.client().await;
    wait_for_name(&client, RAUC_NAME).await;
    let mut told = Told::on(&client).await;
    assert_eq!(installer(&client).await.get_property::<String>("Operation").await.unwrap(), "installing");
    reply.send(Ok(())).unwrap();
    assert_eq!(told.until_completed().await, ["Progress", "Operation", "Completed 0"]);
    served.end().await;
}
