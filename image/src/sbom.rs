//! The bill of materials: SPDX 2.3 in JSON, from the lock and our own binaries. It lies in the image and beside it.

use anyhow::{Context, Result};
use cairn_ota::OsVersion;
use serde_json::{Value, json};

use crate::lock::Lock;

/// One of our own files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnFile {
    /// Name of the program.
    pub name: String,
    /// SHA-256 in hex.
    pub sha256: String,
}

/// The SPDX id of the image itself.
const IMAGE: &str = "SPDXRef-image";

/// Of an image on the Debian base.
pub fn document(lock: &Lock, own: &[OwnFile], version: &OsVersion, epoch: u64) -> Result<String> {
    let mut packages = Vec::new();
    packages.extend(own.iter().map(|file| {
        package(
            &format!("SPDXRef-cairn-{}", plain(&file.name)),
            &file.name,
            version.as_str(),
            &file.sha256,
            None,
        )
    }));
    packages.extend(lock.root.iter().map(|p| {
        let purl = format!(
            "pkg:deb/debian/{}@{}?arch={}",
            p.name,
            p.version.replace('+', "%2B").replace(':', "%3A"),
            p.arch
        );
        package(&format!("SPDXRef-deb-{}", plain(&p.name)), &p.name, &p.version, &p.sha256, Some(&purl))
    }));
    listing(packages, version, epoch)
}

/// Of an image on the NixOS base. The hash in a store path stands for all that went into it.
pub fn closure(paths: &[String], version: &OsVersion, epoch: u64) -> Result<String> {
    let packages = paths.iter().map(|path| {
        json!({
            "SPDXID": format!("SPDXRef-nix-{}", plain(path)),
            "name": path.split_once('-').map_or(path.as_str(), |(_, name)| name),
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "comment": format!("/nix/store/{path}"),
        })
    });
    listing(packages.collect(), version, epoch)
}

/// The document. Its namespace is unique by the hash of what it lists, as SPDX asks.
fn listing(contents: Vec<Value>, version: &OsVersion, epoch: u64) -> Result<String> {
    let created =
        jiff::Timestamp::from_second(i64::try_from(epoch).context("the build time is out of range")?)
            .context("the build time is out of range")?;
    let image = json!({
        "SPDXID": IMAGE,
        "name": "cairn",
        "versionInfo": version.as_str(),
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
    });
    let packages: Vec<Value> = [vec![image], contents].concat();
    let relations: Vec<Value> = packages
        .iter()
        .skip(1)
        .map(|p| json!({"spdxElementId": IMAGE, "relationshipType": "CONTAINS", "relatedSpdxElement": p["SPDXID"]}))
        .chain([json!({"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": IMAGE})])
        .collect();
    let listed = serde_json::to_vec(&packages).context("failed to write the bill of materials")?;
    let hash = crate::fetch::hash(&mut listed.as_slice()).context("failed to hash the bill of materials")?;
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("cairn-{version}"),
        "documentNamespace": format!("urn:cairn:sbom:{hash}"),
        "creationInfo": {"created": created.to_string(), "creators": ["Tool: cairn-image"]},
        "packages": packages,
        "relationships": relations,
    });
    serde_json::to_string_pretty(&document)
        .map(|text| text + "\n")
        .context("failed to write the bill of materials")
}

fn package(id: &str, name: &str, version: &str, sha256: &str, purl: Option<&str>) -> Value {
    let mut package = json!({
        "SPDXID": id,
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "checksums": [{"algorithm": "SHA256", "checksumValue": sha256}],
    });
    if let Some(purl) = purl {
        package["externalRefs"] = json!([{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": purl,
        }]);
    }
    package
}

/// SPDX ids hold letters, digits, `.` and `-`.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::{Archive, Package};

    #[test]
    fn every_package_and_program_is_listed_with_its_hash() {
        let package = Package {
            name: "libc++6".into(),
            version: "1:2+3".into(),
            arch: "amd64".into(),
            archive: Archive::Debian,
            path: "pool/x.deb".into(),
            size: 1,
            sha256: "a".repeat(64),
        };
        let lock = Lock::new("trixie", "amd64", 0, vec![package], Vec::new());
        let own = [OwnFile { name: "cairnd".into(), sha256: "b".repeat(64) }];
        let text = document(&lock, &own, &"1".parse().unwrap(), 0).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["spdxVersion"], "SPDX-2.3");
        assert_eq!(value["creationInfo"]["created"], "1970-01-01T00:00:00Z");
        assert_eq!(value["packages"].as_array().unwrap().len(), 3);
        assert_eq!(value["packages"][2]["SPDXID"], "SPDXRef-deb-libc--6");
        let purl = &value["packages"][2]["externalRefs"][0]["referenceLocator"];
        assert_eq!(purl, "pkg:deb/debian/libc++6@1%3A2%2B3?arch=amd64");
        assert_eq!(value["relationships"].as_array().unwrap().len(), 3);
    }
}
