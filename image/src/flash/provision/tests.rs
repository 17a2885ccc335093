//! What may be put on a disk, and how it lies there.

use std::io::Read;

use fatfs::FormatVolumeOptions;

use super::*;

const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

fn esp() -> Sparse {
    let mut esp = Sparse::new(40 << 20);
    let options = FormatVolumeOptions::new().fat_type(fatfs::FatType::Fat32).bytes_per_cluster(512);
    fatfs::format_volume(&mut esp, options).unwrap();
    esp
}

fn credentials(esp: &mut Sparse) -> Vec<(String, String)> {
    let volume = esp.volume().unwrap();
    let folder = volume.root_dir().open_dir(FOLDER).unwrap();
    let mut found = Vec::new();
    for entry in folder.iter().map(Result::unwrap).filter(|entry| entry.is_file()) {
        let mut content = String::new();
        entry.to_file().read_to_string(&mut content).unwrap();
        found.push((entry.file_name(), content));
    }
    found.sort();
    found
}

#[test]
fn everything_lies_where_the_stub_looks() {
    let site = Site::new();
    let sources = Sources {
        hub: Some("https://hub.example:8443/".into()),
        hub_ca: Some(site.file("ca.pem", PEM)),
        token: Some(site.file("token", "cet_abc\n")),
        hostname: Some("pump-7.site".into()),
        network: vec![site.file("10-lan.network", "[Match]\n"), site.file("20-v.netdev", "[NetDev]\n")],
    };
    let provisioning = Provisioning::read(&sources).unwrap();
    let mut esp = esp();
    // A second time, as when an image was provisioned before: the new text counts, and the old one's end is gone.
    let longer = Sources { hostname: Some("a-much-longer-name.example".into()), ..Sources::default() };
    Provisioning::read(&longer).unwrap().write(&mut esp).unwrap();
    provisioning.write(&mut esp).unwrap();
    let expected = [
        ("cairn.enroll-token.cred", "cet_abc"),
        ("cairn.hostname.cred", "pump-7.site"),
        ("cairn.hub-ca.cred", PEM),
        ("cairn.hub.cred", "https://hub.example:8443"),
        ("cairn.network.10-lan.network.cred", "[Match]\n"),
        ("cairn.network.20-v.netdev.cred", "[NetDev]\n"),
    ];
    assert_eq!(credentials(&mut esp), expected.map(|(name, content)| (name.to_owned(), content.to_owned())));
}

#[test]
fn nothing_to_provision_leaves_the_esp_alone() {
    let provisioning = Provisioning::read(&Sources::default()).unwrap();
    assert!(provisioning.is_empty());
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let mut esp = esp();
    esp.clone().read_to_end(&mut before).unwrap();
    provisioning.write(&mut esp).unwrap();
    esp.read_to_end(&mut after).unwrap();
    assert!(before == after);
}

#[test]
fn refuses_what_no_node_could_use() {
    let site = Site::new();
    let hub = |url: &str| Sources { hub: Some(url.into()), ..Sources::default() };
    let hostname = |name: &str| Sources { hostname: Some(name.into()), ..Sources::default() };
    let ca = |path| Sources { hub_ca: Some(path), ..Sources::default() };
    let token = |path| Sources { token: Some(path), ..Sources::default() };
    let network = |paths| Sources { network: paths, ..Sources::default() };
    let table = [
        (hub("http://hub"), "https://host:port"),
        (hub("https://"), "less"),
        (hub("https://hub/path"), "more than a host"),
        (hub("https://hub\nx"), "more than a host"),
        (ca(site.file("key", "-----BEGIN PRIVATE KEY-----")), "no PEM certificate"),
        (ca(site.file("empty", "")), "empty or far too large"),
        (ca(site.file("huge", vec![b'a'; (64 << 10) + 1])), "far too large"),
        (ca(site.0.path().join("none")), "failed to read"),
        (token(site.file("blank", " \n")), "no token"),
        (token(site.file("two", "a\nb")), "no token"),
        (token(site.file("binary", [0xff, 0xfe])), "no token"),
        (hostname(""), "no host name"),
        (hostname("-a"), "no host name"),
        (hostname("a..b"), "no host name"),
        (hostname("a b"), "no host name"),
        (hostname(&"a".repeat(65)), "64 at most"),
        (network(vec![site.file("lan.conf", "x")]), "10-lan.network"),
        (network(vec![site.file(".network", "x")]), "10-lan.network"),
        (network(vec![site.file("A.network", "x")]), "10-lan.network"),
        (network(vec![site.file("a.network", "x"), site.file("a.network", "x")]), "same name"),
        (network((0..17).map(|i| site.file(&format!("{i}.network"), "x")).collect()), "over 16"),
    ];
    for (sources, expected) in table {
        let said = Provisioning::read(&sources).unwrap_err().to_string();
        assert!(said.contains(expected), "{sources:?}: {said}");
    }
}

#[test]
fn an_esp_without_room_is_an_error() {
    let site = Site::new();
    let mut esp = esp();
    {
        let volume = esp.volume().unwrap();
        let mut file = volume.root_dir().create_file("full").unwrap();
        while file.write(&[1; 4096]).is_ok_and(|count| count > 0) {}
    }
    let sources = Sources { hub_ca: Some(site.file("ca.pem", PEM.repeat(40))), ..Sources::default() };
    let error = Provisioning::read(&sources).unwrap().write(&mut esp).unwrap_err();
    assert!(matches!(error, ProvisionError::Write { .. }), "{error}");
}
