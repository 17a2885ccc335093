//! The Compose file from text to types, with every problem of it.

mod clashes;
mod deploy;
mod health;
mod mounts;
mod network;
mod process;
mod reader;
mod service;
mod wasm;

use std::collections::BTreeMap;

use self::{
    clashes::Clashes,
    reader::{Field, Reader, cut},
};
use super::{
    App, MAX_BYTES, Problem, Problems, Volume, canonical, known,
    yaml::{self, Place},
};
use crate::id::{AppName, ServiceName};

/// Most services of an app.
const MAX_SERVICES: usize = 100;

/// Room that a digest for each service takes when the hub pins the images.
const PIN_BYTES: usize = MAX_SERVICES * 100;

/// See [`App::parse`].
pub(super) fn app(file: &str, yaml: &str) -> Result<App, Problems> {
    let app = read(file, yaml)?;
    // The canonical form can be longer than the file: aliases are written out and characters escaped. What is accepted
    // here must be accepted by the node.
    if canonical::write(&app).len() > MAX_BYTES - PIN_BYTES {
        return Err(whole(
            file,
            "the file is larger than 1 MiB with everything written out",
            "split the app",
        ));
    }
    Ok(app)
}

/// See [`App::from_canonical_json`].
pub(super) fn canonical(bytes: &[u8]) -> Result<App, Problems> {
    const FILE: &str = "app.json";
    match std::str::from_utf8(bytes) {
        Ok(text) => read(FILE, text),
        Err(_) => Err(whole(FILE, "this is no UTF-8 text", "deploy the app again through the hub")),
    }
}

fn whole(file: &str, cause: &str, cure: &str) -> Problems {
    let Place { line, column } = Place::START;
    let problem =
        Problem { line, column, key: String::new(), cause: cause.to_owned(), cure: cure.to_owned() };
    Problems { file: file.to_owned(), list: vec![problem] }
}

fn read(file: &str, text: &str) -> Result<App, Problems> {
    if text.len() > MAX_BYTES {
        return Err(whole(file, "the file is larger than 1 MiB", "split the app"));
    }
    let mut reader = Reader::default();
    let app = match yaml::load(text) {
        Ok((root, flaws)) => {
            flaws.into_iter().for_each(|flaw| reader.flaw(flaw));
            top(&mut reader, &Field { path: String::new(), key_at: root.at, node: &root })
        }
        Err(flaw) => {
            reader.flaw(flaw);
            None
        }
    };
    match app {
        Some(app) if !reader.has_problems() => Ok(app),
        _ => Err(Problems { file: file.to_owned(), list: reader.finish() }),
    }
}

fn top(reader: &mut Reader, root: &Field<'_>) -> Option<App> {
    let mut name = None;
    let mut services = None;
    let mut volumes = BTreeMap::new();
    let mut clashes = Clashes::default();
    let entries = reader.entries(root);
    for (key, field) in &entries {
        match *key {
            "name" => name = reader.parsed::<AppName>(field, "write such a name"),
            "services" => services = Some(read_services(reader, field, &mut clashes)),
            "volumes" => volumes = read_volumes(reader, field, &mut clashes),
            // Obsolete by the specification, which asks readers to accept it.
            "version" => {
                reader.scalar(field);
            }
            "x-cairn" => {
                for (key, field) in reader.entries(field) {
                    reader.unknown(&field, key, &known::X_CAIRN_TOP);
                }
            }
            other => reader.unknown(field, other, &known::TOP),
        }
    }
    let Some(services) = services else {
        if root.is_map() {
            reader.refuse(
                root.at(),
                "",
                "the file has no `services`",
                "write at least one service with an image",
            );
        }
        return None;
    };
    clashes.check(reader, &services);
    Some(App { name, services, volumes })
}

fn read_services(
    reader: &mut Reader,
    field: &Field<'_>,
    clashes: &mut Clashes,
) -> BTreeMap<ServiceName, super::Service> {
    let mut services = BTreeMap::new();
    let entries = reader.all_entries(field);
    if field.is_map() && entries.is_empty() {
        reader.refuse_value(field, "there is no service here", "write at least one, with an image");
    }
    if entries.len() > MAX_SERVICES {
        reader.refuse_value(field, format!("there are more than {MAX_SERVICES} services"), "split the app");
        return services;
    }
    for (key, field) in entries {
        // Read even under a bad name: its other problems are told too.
        let name = key.parse::<ServiceName>();
        clashes.services.extend(name.as_ref().ok().cloned());
        let service = service::read(reader, &field, name.as_ref().ok(), clashes);
        match (name, service) {
            (Err(error), _) => {
                reader.refuse(field.key_at, &field.path, error.to_string(), "give the service such a name");
            }
            (Ok(name), Some(service)) => {
                services.insert(name, service);
            }
            (Ok(_), None) => {}
        }
    }
    services
}

fn read_volumes(reader: &mut Reader, field: &Field<'_>, clashes: &mut Clashes) -> BTreeMap<String, Volume> {
    let mut volumes = BTreeMap::new();
    for (name, field) in reader.all_entries(field) {
        if !mounts::is_volume_name(name) {
            let cause = format!("{:?} is no volume name", cut(name));
            let cure = "use 1 to 64 letters, digits, `_`, `.`, `-`; a letter or digit first";
            reader.refuse(field.key_at, &field.path, cause, cure);
            continue;
        }
        clashes.volumes.insert(name.to_owned());
        let mut volume = Volume::default();
        if !field.is_null() {
            for (key, field) in reader.entries(&field) {
                match key {
                    "labels" => volume.labels = process::labels(reader, &field),
                    other => reader.unknown(&field, other, &known::VOLUME),
                }
            }
        }
        volumes.insert(name.to_owned(), volume);
    }
    volumes
}
