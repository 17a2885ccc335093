//! The hub's own CA, its certificate, and the TLS that it speaks.

use std::{
    io::Write as _,
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, string::Ia5String,
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

/// The CA's life: nodes pin it, so that it outlives them.
const CA_YEARS: i32 = 30;

/// Where everything lives below the data folder.
pub(crate) fn folder(data: &Path) -> PathBuf {
    data.join("tls")
}

/// The CA's certificate: what nodes and tools pin.
pub(crate) fn ca_path(data: &Path) -> PathBuf {
    data.join("ca.pem")
}

/// Makes the CA and a first server certificate.
pub(crate) fn init(data: &Path, names: &[String], addresses: &[IpAddr]) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder(data))?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    let host =
        names.first().cloned().or_else(|| addresses.first().map(ToString::to_string)).unwrap_or_default();
    params.distinguished_name = common_name(&format!("Cairn hub CA of {host}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, CA_YEARS);
    let certificate = params.self_signed(&key)?;
    write(&ca_path(data), certificate.pem().as_bytes(), 0o644)?;
    write(&folder(data).join("ca.key"), key.serialize_pem().as_bytes(), 0o600)?;
    issue(data, names, addresses)
}

/// Makes a new server certificate, where the CA's key is still here; each start does, so that it never ends while the
/// hub is looked after, and follows the settings.
pub(crate) fn issue_if_possible(data: &Path, names: &[String], addresses: &[IpAddr]) -> anyhow::Result<()> {
    if folder(data).join("ca.key").exists() { issue(data, names, addresses) } else { Ok(()) }
}

fn issue(data: &Path, names: &[String], addresses: &[IpAddr]) -> anyhow::Result<()> {
    let folder = folder(data);
    let ca_key = KeyPair::from_pem(&read(&folder.join("ca.key"))?).context("failed to read the CA's key")?;
    let issuer = Issuer::from_ca_cert_pem(&read(&ca_path(data))?, ca_key).context("failed to read the CA")?;
    let mut params = CertificateParams::default();
    for name in names {
        let name = Ia5String::try_from(name.as_str()).with_context(|| format!("{name:?} is no host name"))?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
    params.distinguished_name = common_name("cairn-hub");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, 2);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    write(&folder.join("server.pem"), certificate.pem().as_bytes(), 0o644)?;
    write(&folder.join("server.key"), key.serialize_pem().as_bytes(), 0o600)
}

fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

fn set_validity(params: &mut CertificateParams, years: i32) {
    let year = i32::from(jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).year());
    // Valid from long ago: a node whose clock stands at its image's build time must be able to connect.
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(year + years, 1, 1);
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
}

/// Writes a file whole or not at all, with `mode`.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let tried = || format!("failed to write {}", path.display());
    let mut staging = path.as_os_str().to_owned();
    staging.push(".new");
    let staging = PathBuf::from(staging);
    // What a power cut left may have another mode.
    if staging.exists() {
        std::fs::remove_file(&staging).with_context(tried)?;
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&staging)
        .with_context(tried)?;
    // Not by the umask: the CA is for everybody.
    file.set_permissions(std::fs::Permissions::from_mode(mode)).with_context(tried)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).with_context(tried)?;
    std::fs::rename(&staging, path).with_context(tried)?;
    if let Some(parent) = path.parent() {
        std::fs::File::open(parent).and_then(|folder| folder.sync_all()).with_context(tried)?;
    }
    Ok(())
}

/// The TLS that the hub speaks, with the certificate on disk.
pub(crate) fn server_config(data: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    let folder = folder(data);
    let path = folder.join("server.pem");
    let chain = CertificateDer::pem_file_iter(&path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("failed to read {}", path.display()))?;
    let path = folder.join("server.key");
    let key =
        PrivateKeyDer::from_pem_file(&path).with_context(|| format!("failed to read {}", path.display()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("the server's key and certificate do not fit together")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
