//! OS versions, one a line: their order is a total one, and that of systemd-boot, which decides by it what it boots.
#![no_main]

use std::cmp::Ordering;

use cairn_fuzz::refusal;
use cairn_model::OsVersion;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut versions: Vec<OsVersion> = Vec::new();
    for line in String::from_utf8_lossy(data).split('\n').take(8) {
        match line.parse::<OsVersion>() {
            Ok(version) => {
                assert_eq!(version.to_string(), line);
                versions.push(version);
            }
            Err(error) => refusal(&error),
        }
    }
    for a in &versions {
        for b in &versions {
            let order = a.cmp(b);
            assert_eq!(order, b.cmp(a).reverse(), "{a} {b}");
            assert_eq!(order == Ordering::Equal, a == b, "{a} {b}");
            let loader = systemd_order(a.as_str().as_bytes(), b.as_str().as_bytes());
            assert!(loader == Ordering::Equal || loader == order, "{a} {b}: systemd has {loader:?}");
            for c in &versions {
                assert!(a > b || b > c || a <= c, "{a} <= {b} <= {c}, but {a} > {c}");
            }
        }
    }
});

/// `strverscmp_improved` of systemd 257, without the `^` that our versions cannot have.
fn systemd_order(mut a: &[u8], mut b: &[u8]) -> Ordering {
    loop {
        for mark in [b'~', 0, b'-', b'.'] {
            let (left, right) = (first(a), first(b));
            if mark == 0 && (left == 0 || right == 0) {
                return left.cmp(&right);
            }
            if mark != 0 && (left == mark || right == mark) {
                if left != right {
                    return if left == mark { Ordering::Less } else { Ordering::Greater };
                }
                (a, b) = (&a[1..], &b[1..]);
            }
        }
        let digits = first(a).is_ascii_digit() || first(b).is_ascii_digit();
        let wanted = if digits { u8::is_ascii_digit } else { u8::is_ascii_lowercase };
        let end = |text: &[u8]| text.iter().position(|byte| !wanted(byte)).unwrap_or(text.len());
        let ((left, a_rest), (right, b_rest)) = (a.split_at(end(a)), b.split_at(end(b)));
        let order = if digits {
            let plain = |number: &[u8]| number.iter().copied().skip_while(|c| *c == b'0').collect::<Vec<_>>();
            let (one, other) = (plain(left), plain(right));
            let present = (!left.is_empty()).cmp(&!right.is_empty());
            present.then(one.len().cmp(&other.len())).then(one.cmp(&other))
        } else {
            left.cmp(right)
        };
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (a_rest, b_rest);
    }
}

fn first(text: &[u8]) -> u8 {
    text.first().copied().unwrap_or(0)
}
