//! The kernel's command line: what it says about the root, and whether anybody has added to it.

use crate::Outcome;
use crate::verity::RootHash;

/// The value of `roothash=`; the first one counts.
pub(crate) fn root_hash(command_line: &str) -> Outcome<RootHash> {
    let value = command_line.split_whitespace().find_map(|word| word.strip_prefix("roothash="));
    let value = value.ok_or("the kernel command line names no roothash=")?;
    RootHash::parse(value).ok_or_else(|| format!("roothash={value} is no SHA-256"))
}

/// Refuses a command line that boot loader or firmware has changed: it could switch off what the image relies on.
pub(crate) fn ensure_unchanged(expected: &str, actual: &str) -> Outcome<()> {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    if words(expected) == words(actual) {
        return Ok(());
    }
    Err("the kernel command line is not the one of the image: boot loader or firmware has changed it".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_hash_is_found_and_must_be_whole() {
        let hash = "0123456789abcdef".repeat(4);
        assert!(root_hash(&format!("ro roothash={hash} x\n")).is_ok());
        for bad in [
            "ro".to_owned(),
            "roothash=".into(),
            format!("roothash={}", &hash[1..]),
            format!("xroothash={hash}"),
        ] {
            assert!(root_hash(&bad).is_err(), "{bad}");
        }
        assert!(root_hash(&format!("roothash={}", "é".repeat(32))).is_err());
    }

    #[test]
    fn rejects_an_added_kernel_parameter() {
        assert!(ensure_unchanged("ro a=b", "ro  a=b\n").is_ok());
        assert!(ensure_unchanged("ro a=b", "ro a=b systemd.debug_shell").is_err());
        assert!(ensure_unchanged("ro a=b", "a=b ro").is_err());
        assert!(ensure_unchanged("ro a=b", "").is_err());
    }
}
