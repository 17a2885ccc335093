//! Credentials that the hypervisor or firmware passes in SMBIOS type 11 strings, as systemd defines them:
//! `io.systemd.credential:NAME=VALUE` and `io.systemd.credential.binary:NAME=BASE64`. Only `cairn.*` is taken.

use crate::provision::{Credential, MAX_COUNT, is_ours};

/// SMBIOS structure types.
const OEM_STRINGS: u8 = 11;
const END_OF_TABLE: u8 = 127;

/// Names and values of our credentials in a raw SMBIOS table; the first of a name counts.
pub(crate) fn from_smbios(table: &[u8]) -> Vec<Credential> {
    let mut found: Vec<Credential> = Vec::new();
    for text in oem_strings(table) {
        let Some((name, value)) = parse(text) else { continue };
        if found.len() < MAX_COUNT && found.iter().all(|(known, _)| *known != name) {
            found.push((name, value));
        }
    }
    found
}

/// All strings of type 11 structures. A structure is a header with its own length, then NUL-terminated strings, then
/// one more NUL.
fn oem_strings(table: &[u8]) -> Vec<&[u8]> {
    let mut strings = Vec::new();
    let mut rest = table;
    while let [kind, length, ..] = *rest {
        let length = usize::from(length);
        if kind == END_OF_TABLE || length < 4 || length > rest.len() {
            break;
        }
        let Some(end) = rest[length..].windows(2).position(|pair| pair == [0, 0]) else { break };
        if kind == OEM_STRINGS {
            strings
                .extend(rest[length..length + end].split(|byte| *byte == 0).filter(|text| !text.is_empty()));
        }
        rest = &rest[length + end + 2..];
    }
    strings
}

/// A credential of ours, or `None` for anything else.
fn parse(text: &[u8]) -> Option<Credential> {
    let text = std::str::from_utf8(text).ok()?.strip_prefix("io.systemd.credential")?;
    let (binary, text) = match text.strip_prefix(".binary:") {
        Some(text) => (true, text),
        None => (false, text.strip_prefix(':')?),
    };
    let (name, value) = text.split_once('=')?;
    if !is_ours(name) {
        return None;
    }
    let value = if binary { decode_base64(value)? } else { value.as_bytes().to_vec() };
    Some((name.to_owned(), value))
}

/// Standard base64, padded or not; white space is skipped, as systemd does.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let end = digits.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
    if digits.len() - end > 2 || end % 4 == 1 {
        return None;
    }
    let mut decoded = Vec::new();
    for group in digits[..end].chunks(4) {
        let mut bits = 0u32;
        for digit in group {
            bits = bits << 6 | base64_value(*digit)?;
        }
        bits <<= 6 * (4 - group.len());
        decoded.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Some(decoded)
}

fn base64_value(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A table with one structure of another type, one of type 11 with these strings, and the end.
    fn table(strings: &[&str]) -> Vec<u8> {
        let mut table = vec![1, 6, 0, 0, 9, 9, b'x', 0, 0, OEM_STRINGS, 5, 0, 0, strings.len() as u8];
        for text in strings {
            table.extend(text.as_bytes());
            table.push(0);
        }
        table.extend([0, END_OF_TABLE, 4, 0, 0, 0, 0]);
        table
    }

    #[test]
    fn our_credentials_are_read_in_both_forms() {
        let strings = [
            "io.systemd.credential:cairn.hub=https://h:1/?a=b",
            "io.systemd.credential.binary:cairn.hub-ca=AAECAw==",
        ];
        let expected = vec![
            ("cairn.hub".into(), b"https://h:1/?a=b".to_vec()),
            ("cairn.hub-ca".into(), vec![0, 1, 2, 3]),
        ];
        assert_eq!(from_smbios(&table(&strings)), expected);
    }

    #[test]
    fn rejects_units_injected_by_smbios() {
        let strings = [
            "io.systemd.credential.binary:systemd.extra-unit.evil.service=AAEC",
            "io.systemd.credential:systemd.unit-dropin.multi-user.target=x",
            "io.systemd.credential:tmpfiles.extra=x",
            "io.systemd.credential:passwd.plaintext-password.root=x",
            "io.systemd.credential:cairn./../../etc/x=x",
            "io.systemd.credential:cairn...=x",
            "io.systemd.credential:Cairn.hub=x",
            "io.systemd.credential.binary:cairn.hub=***",
            "io.systemd.stub.kernel-cmdline-extra=init=/bin/sh",
            "something else",
        ];
        assert_eq!(from_smbios(&table(&strings)), []);
    }

    #[test]
    fn the_first_of_a_name_counts() {
        let strings = ["io.systemd.credential:cairn.a=1", "io.systemd.credential:cairn.a=2"];
        assert_eq!(from_smbios(&table(&strings)), [("cairn.a".to_owned(), b"1".to_vec())]);
    }

    #[test]
    fn base64_is_decoded_as_systemd_does() {
        let table: [(&str, Option<&[u8]>); 8] = [
            ("", Some(b"")),
            ("Zg==", Some(b"f")),
            ("Zm8=", Some(b"fo")),
            ("Zm9v", Some(b"foo")),
            ("Zm 9v\n", Some(b"foo")),
            ("Z", None),
            ("Zm9v====", None),
            ("Zm=v", None),
        ];
        for (text, expected) in table {
            assert_eq!(decode_base64(text).as_deref(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn random_tables_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = from_smbios(&bytes);
            let mut seeded = table(&["io.systemd.credential:cairn.a=1"]);
            for (at, byte) in bytes.iter().enumerate().take(seeded.len() / 3) {
                seeded[at * 3] = *byte;
            }
            let _ = from_smbios(&seeded);
        }
    }
}
