//! The machine's id from the UUID that its firmware gives.

/// UUIDs that boards carry by the thousand.
const KNOWN_BAD: [&str; 2] = ["03000200040005000006000700080009", "12345678123456789012345678901234"];

/// 32 lower-case hex digits, or `None` for a UUID that tells nothing.
pub(crate) fn from_uuid(uuid: &str) -> Option<String> {
    let id: String = uuid.trim().chars().filter(|c| *c != '-').map(|c| c.to_ascii_lowercase()).collect();
    let all_same = id.chars().all(|c| id.starts_with(c));
    let valid = id.len() == 32 && id.chars().all(|c| c.is_ascii_hexdigit()) && !all_same;
    (valid && !KNOWN_BAD.contains(&id.as_str())).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::from_uuid;

    #[test]
    fn only_a_uuid_that_tells_machines_apart_becomes_an_id() {
        let good = from_uuid("00000000-0000-4000-8000-00000000000A\n");
        assert_eq!(good.as_deref(), Some("0000000000004000800000000000000a"));
        let bad = [
            "",
            "x",
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "03000200-0400-0500-0006-000700080009",
            "zz000000-0000-4000-8000-00000000000a",
            "éééééééééééééééé",
        ];
        for uuid in bad {
            assert_eq!(from_uuid(uuid), None, "{uuid}");
        }
    }
}
