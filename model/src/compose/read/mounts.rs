//! What a service mounts.

use super::{
    super::{Service, Tmpfs, VolumeMount, known},
    Clashes, process,
    reader::{Field, Reader, cut},
};
use crate::id::ServiceName;

/// Cure of everything that would mount a folder of the node.
const USE_VOLUME: &str = "use a named volume: declare it under the file's `volumes`";

/// Compose's grammar, bounded: it becomes the name of a folder.
pub(super) fn is_volume_name(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// An absolute path without `.`, `..` or empty parts: nothing that means another place than it says.
pub(super) fn absolute_path(reader: &mut Reader, field: &Field<'_>) -> Option<String> {
    let text = reader.full_text(field)?;
    check_path(reader, field, &text)
}

fn check_path(reader: &mut Reader, field: &Field<'_>, text: &str) -> Option<String> {
    let trimmed = if text.len() > 1 { text.strip_suffix('/').unwrap_or(text) } else { text };
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(char::is_control);
    let valid = trimmed == "/" || trimmed.strip_prefix('/').is_some_and(|rest| rest.split('/').all(plain));
    if !valid || text.len() > 4000 {
        let cause = format!("{:?} is no absolute path without `.` and `..`", cut(text));
        reader.refuse_value(field, cause, "write the whole path from `/`");
        return None;
    }
    Some(trimmed.to_owned())
}

/// What `volumes` and `tmpfs` of one service say.
#[derive(Default)]
pub(super) struct Mounts {
    volumes: Vec<(VolumeMount, Origin)>,
    tmpfs: Vec<(Tmpfs, Origin)>,
}

/// Where a mount is written.
struct Origin {
    at: super::Place,
    path: String,
}

impl Origin {
    fn of(field: &Field<'_>) -> Self {
        Self { at: field.at(), path: field.path.clone() }
    }
}

#[derive(Clone, Copy)]
enum Type {
    Volume,
    Tmpfs,
    /// Refused already.
    Other,
}

/// The long syntax, key by key: the inner option is what could be read, the outer one whether it is there.
#[derive(Default)]
struct Long<'a> {
    kind: Option<Type>,
    source: Option<(Option<String>, Field<'a>)>,
    target: Option<Option<String>>,
    read_only: Option<(bool, Field<'a>)>,
    tmpfs: Option<Field<'a>>,
    size_bytes: Option<u64>,
    mode: Option<u32>,
}

impl<'a> Long<'a> {
    fn read(reader: &mut Reader, field: &Field<'a>) -> Self {
        let mut long = Self::default();
        for (key, field) in reader.entries(field) {
            match key {
                "type" => long.kind = Some(mount_type(reader, &field)),
                "source" => long.source = Some((reader.full_text(&field), field)),
                "target" => long.target = Some(absolute_path(reader, &field)),
                "read_only" => long.read_only = Some((reader.boolean(&field).unwrap_or_default(), field)),
                "tmpfs" => {
                    for (key, field) in reader.entries(&field) {
                        match key {
                            "size" => long.size_bytes = process::bytes(reader, &field),
                            "mode" => long.mode = octal_mode(reader, &field),
                            other => reader.unknown(&field, other, &known::MOUNT_TMPFS),
                        }
                    }
                    long.tmpfs = Some(field);
                }
                other => reader.unknown(&field, other, &known::MOUNT),
            }
        }
        long
    }

    fn volume(self, reader: &mut Reader, field: &Field<'_>) -> Option<VolumeMount> {
        if let Some(field) = self.tmpfs {
            reader.refuse(field.key_at, &field.path, "a volume has no `tmpfs`", "remove it");
        }
        let Some((volume, source)) = self.source else {
            reader.refuse_value(field, "this volume has no name", USE_VOLUME);
            return None;
        };
        let volume = volume.filter(|volume| named(reader, &source, volume))?;
        let read_only = self.read_only.is_some_and(|(value, _)| value);
        Some(VolumeMount { volume, target: self.target.flatten()?, read_only })
    }

    fn tmpfs(self, reader: &mut Reader) -> Option<Tmpfs> {
        let senseless = [
            ("source", self.source.map(|(_, field)| field)),
            ("read_only", self.read_only.map(|(_, field)| field)),
        ];
        for (what, field) in senseless {
            if let Some(field) = field {
                reader.refuse(field.key_at, &field.path, format!("a tmpfs has no `{what}`"), "remove it");
            }
        }
        Some(Tmpfs { target: self.target.flatten()?, size_bytes: self.size_bytes, mode: self.mode })
    }
}

fn mount_type(reader: &mut Reader, field: &Field<'_>) -> Type {
    match reader.full_text(field).as_deref() {
        Some("volume") => Type::Volume,
        Some("tmpfs") => Type::Tmpfs,
        Some(other) => {
            let cause = format!("mounts of type {:?} are not supported yet", cut(other));
            reader.refuse_value(field, cause, USE_VOLUME);
            Type::Other
        }
        None => Type::Other,
    }
}

impl Mounts {
    pub(super) fn read_volumes(&mut self, reader: &mut Reader, field: &Field<'_>) {
        for item in reader.items(field) {
            if item.is_map() {
                self.long(reader, item);
            } else if let Some(mount) = short(reader, &item) {
                self.volumes.push((mount, Origin::of(&item)));
            }
        }
    }

    fn long(&mut self, reader: &mut Reader, field: Field<'_>) {
        let long = Long::read(reader, &field);
        if long.kind.is_none() {
            reader.refuse_value(&field, "a mount needs a `type`", "write `type: volume` or `type: tmpfs`");
        }
        if long.target.is_none() {
            reader.refuse_value(&field, "a mount needs a `target`", "write the path inside as `target`");
        }
        match long.kind {
            Some(Type::Volume) => {
                let mount = long.volume(reader, &field);
                self.volumes.extend(mount.map(|mount| (mount, Origin::of(&field))));
            }
            Some(Type::Tmpfs) => {
                let mount = long.tmpfs(reader);
                self.tmpfs.extend(mount.map(|mount| (mount, Origin::of(&field))));
            }
            Some(Type::Other) | None => {}
        }
    }

    pub(super) fn read_tmpfs(&mut self, reader: &mut Reader, field: &Field<'_>) {
        let items = if field.is_list() { reader.items(field) } else { vec![field.clone()] };
        for item in items {
            let Some(text) = reader.full_text(&item) else { continue };
            let (target, options) = text.split_once(':').unwrap_or((&text, ""));
            let Some(target) = check_path(reader, &item, target) else { continue };
            let mut mount = Tmpfs { target, size_bytes: None, mode: None };
            for option in options.split(',').filter(|option| !option.is_empty()) {
                match option.split_once('=') {
                    Some(("size", size)) => {
                        let size = super::super::values::bytes(size);
                        mount.size_bytes = reader.ok(&item, size, "write for example size=64m");
                    }
                    Some(("mode", mode)) => mount.mode = parse_mode(reader, &item, mode),
                    _ => {
                        let cause = format!("the mount option {:?} is not supported yet", cut(option));
                        reader.refuse_value(&item, cause, "use size=… and mode=… only");
                    }
                }
            }
            self.tmpfs.push((mount, Origin::of(&item)));
        }
    }

    /// Gives the mounts to `service`, after a look at their targets.
    pub(super) fn finish(
        self,
        reader: &mut Reader,
        name: Option<&ServiceName>,
        clashes: &mut Clashes,
        service: &mut Service,
    ) {
        let mut targets = std::collections::BTreeSet::new();
        let mut target = |reader: &mut Reader, target: &str, origin: &Origin| {
            if target == "/" {
                reader.refuse(
                    origin.at,
                    &origin.path,
                    "this would hide the whole image",
                    "mount it below `/`",
                );
            }
            if !targets.insert(target.to_owned()) {
                let cause = format!("{:?} is mounted twice in this service", cut(target));
                reader.refuse(origin.at, &origin.path, cause, "keep one of them");
            }
        };
        for (mount, origin) in self.volumes {
            target(reader, &mount.target, &origin);
            clashes.mount(name, &mount.volume, origin.at, &origin.path);
            service.volumes.push(mount);
        }
        for (mount, origin) in self.tmpfs {
            target(reader, &mount.target, &origin);
            service.tmpfs.push(mount);
        }
        // Outer before inner, and independent of the order in the file.
        service.volumes.sort_by(|a, b| a.target.cmp(&b.target));
        service.tmpfs.sort_by(|a, b| a.target.cmp(&b.target));
    }
}

/// `volume:/target[:ro|rw]`.
fn short(reader: &mut Reader, field: &Field<'_>) -> Option<VolumeMount> {
    let text = reader.full_text(field)?;
    let mut parts = text.split(':');
    let (source, target) = (parts.next().unwrap_or_default(), parts.next());
    let Some(target) = target else {
        if source.starts_with('/') {
            reader.refuse_value(field, "volumes without a name are not supported yet", USE_VOLUME);
        } else {
            reader.refuse_value(
                field,
                format!("{:?} names no path inside", cut(&text)),
                "write \"volume:/path/inside\"",
            );
        }
        return None;
    };
    let options = parts.collect::<Vec<_>>().join(":");
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            other => {
                let cause = format!("the mount option {:?} is not supported yet", cut(other));
                reader.refuse_value(field, cause, "use `ro` or `rw`");
                return None;
            }
        }
    }
    let target = check_path(reader, field, target)?;
    named(reader, field, source).then(|| VolumeMount { volume: source.to_owned(), target, read_only })
}

fn named(reader: &mut Reader, field: &Field<'_>, source: &str) -> bool {
    if source.starts_with(['/', '.', '~']) {
        let cause = format!("{:?} is a folder of the node: bind mounts are not supported yet", cut(source));
        reader.refuse_value(field, cause, USE_VOLUME);
        return false;
    }
    if !is_volume_name(source) {
        let cause = format!("{:?} is no volume name", cut(source));
        reader.refuse_value(field, cause, "use letters, digits, `_`, `.`, `-`");
        return false;
    }
    true
}

/// Permission bits. Only as a text: of an unquoted 1777 nobody can say whether it is octal.
fn octal_mode(reader: &mut Reader, field: &Field<'_>) -> Option<u32> {
    let text = reader.full_text(field)?;
    parse_mode(reader, field, &text)
}

fn parse_mode(reader: &mut Reader, field: &Field<'_>, text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let octal = !digits.is_empty() && digits.len() <= 5 && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| octal && *mode <= 0o7777);
    if mode.is_none() {
        let cause = format!("{:?} is no set of permission bits", cut(text));
        reader.refuse_value(field, cause, "write them in octal: \"1777\"");
    }
    mode
}
