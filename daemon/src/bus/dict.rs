//! Our documents as D-Bus dictionaries: in RAUC's words for its tools, in our own for `org.cairn.Node1`.

use std::collections::HashMap;

use cairn_model::report::Slot;
use serde::Serialize;
use zbus::zvariant::{OwnedValue, Value};

use super::{
    Dict,
    port::{Inspected, SlotView},
};

/// RAUC's name of a slot: class and number.
pub(super) const fn slot_name(slot: Slot) -> &'static str {
    match slot {
        Slot::A => "rootfs.0",
        Slot::B => "rootfs.1",
    }
}

/// What RAUC calls the slot identifier: `booted`, `other`, a slot's name; here also a boot name.
pub(super) fn slot_named(identifier: &str, booted: Slot) -> Result<Slot, String> {
    let named = |slot: &Slot| [slot_name(*slot), slot.as_str()].contains(&identifier);
    match identifier {
        "booted" => Ok(booted),
        "other" => Ok(booted.other()),
        _ => [Slot::A, Slot::B].into_iter().find(named).ok_or_else(|| {
            let identifier: String = identifier.chars().take(80).collect();
            format!("no slot is called '{identifier}'; use booted, other, rootfs.0 or rootfs.1")
        }),
    }
}

/// A slot as `GetSlotStatus` shows it.
pub(super) fn slot_status(view: &SlotView, compatible: &str) -> (String, Dict) {
    let state = if view.running { "booted" } else { "inactive" };
    let boot_status = if view.bootable && !view.corrupt { "good" } else { "bad" };
    let mut texts = vec![
        ("class", "rootfs".to_owned()),
        ("device", view.device.display().to_string()),
        ("type", "raw".to_owned()),
        ("bootname", view.slot.as_str().to_owned()),
        ("state", state.to_owned()),
        ("boot-status", boot_status.to_owned()),
    ];
    if let Some(version) = &view.version {
        texts.push(("bundle.compatible", compatible.to_owned()));
        texts.push(("bundle.version", version.to_string()));
    }
    let status = match (view.corrupt, &view.version) {
        (true, _) => Some("corrupt"),
        (false, Some(_)) => Some("ok"),
        (false, None) => None,
    };
    texts.extend(status.map(|status| ("status", status.to_owned())));
    let mut dict = dict(texts.into_iter().map(|(key, text)| (key, Value::from(text))));
    // Not RAUC's: a trial that still has starts left is bootable, and not kept yet.
    dict.extend(view.tries_left.map(|tries| ("cairn.tries-left".to_owned(), OwnedValue::from(tries))));
    (slot_name(view.slot).to_owned(), dict)
}

/// A release as `InspectBundle` shows it. RAUC wraps each group once more than it would have to; its clients expect that.
pub(super) fn bundle_info(Inspected { digest, release }: &Inspected) -> Dict {
    let group = |pairs: Vec<(&str, Value<'static>)>| {
        let inner: HashMap<String, Value<'static>> =
            pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Value::new(Value::from(inner))
    };
    let update = vec![
        ("compatible", Value::from(release.compatible.clone())),
        ("version", Value::from(release.version.to_string())),
        ("description", Value::from(release.changelog.clone())),
        ("build", Value::from(release.built.to_string())),
    ];
    let bundle = vec![
        ("format", Value::from("verity")),
        ("verity-hash", Value::from(release.verity.root_hash.clone())),
        ("verity-salt", Value::from(release.verity.salt.clone())),
    ];
    let image: HashMap<String, Value<'static>> = [
        ("slot-class", Value::from("rootfs")),
        ("type", Value::from("raw")),
        ("checksum", Value::from(hex_of(&release.root.digest.to_string()))),
        ("size", Value::from(release.root.size)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    dict([
        ("manifest-hash", Value::from(hex_of(&digest.to_string()))),
        ("update", group(update)),
        ("bundle", group(bundle)),
        ("images", Value::new(Value::from(vec![image]))),
    ])
}

fn hex_of(digest: &str) -> String {
    digest.strip_prefix("sha256:").unwrap_or(digest).to_owned()
}

/// A document of ours, with the keys of its JSON; empty for none.
pub(super) fn document(document: Option<&impl Serialize>) -> Dict {
    let json = document.and_then(|document| serde_json::to_value(document).ok());
    match json {
        Some(serde_json::Value::Object(fields)) => {
            dict(fields.iter().filter_map(|(key, value)| Some((key.as_str(), variant(value)?))))
        }
        _ => Dict::new(),
    }
}

/// What JSON has and D-Bus has not, is left out: null.
fn variant(json: &serde_json::Value) -> Option<Value<'static>> {
    use serde_json::Value as Json;
    match json {
        Json::Null => None,
        Json::Bool(value) => Some(Value::from(*value)),
        Json::Number(number) => {
            let unsigned = number.as_u64().map(Value::from);
            unsigned.or_else(|| number.as_i64().map(Value::from)).or_else(|| number.as_f64().map(Value::from))
        }
        Json::String(text) => Some(Value::from(text.clone())),
        Json::Array(items) => Some(Value::from(items.iter().filter_map(variant).collect::<Vec<_>>())),
        Json::Object(fields) => {
            let fields: HashMap<String, Value<'static>> =
                fields.iter().filter_map(|(key, value)| Some((key.clone(), variant(value)?))).collect();
            Some(Value::from(fields))
        }
    }
}

/// Values without file descriptors, which are all that are made here, can always be owned.
fn dict<'a>(pairs: impl IntoIterator<Item = (&'a str, Value<'static>)>) -> Dict {
    let owned = |(key, value): (&str, Value<'static>)| Some((key.to_owned(), value.try_into().ok()?));
    pairs.into_iter().filter_map(owned).collect()
}
