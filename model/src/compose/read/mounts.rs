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

/// A mount and where it is written.
struct Placed<'a, T> {
    mount: T,
    field: Field<'a>,
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

impl<T> Placed<'_, T> {
    fn split(self) -> (T, Origin) {
        (self.mount, Origin { at: self.field.at(), path: self.field.path })
    }
}

impl Mounts {
    pub(super) fn read_volumes(&mut self, reader: &mut Reader, field: &Field<'_>) {
        for item in reader.items(field) {
            if item.is_map() {
                self.long(reader, item);
            } else if let Some(mount) = short(reader, &item) {
                self.volumes.push(Placed { mount, field: item }.split());
            }
        }
    }

    fn long(&mut self, reader: &mut Reader, field: Field<'_>) {
        #[derive(Clone, Copy, PartialEq, Eq)]
        enum Type {
            Volume,
            Tmpfs,
            Other,
        }
        let (mut kind, mut source, mut target) = (None, None, None);
        let (mut read_only, mut size_bytes, mut mode, mut tmpfs_at) = (None, None, None, None);
        for (key, field) in reader.entries(&field) {
            match key {
                "type" => {
                    let text = reader.full_text(&field);
                    kind = match text.as_deref() {
                        Some("volume") => Some(Type::Volume),
                        Some("tmpfs") => Some(Type::Tmpfs),
                        Some(other) => {
                            let cause = format!("mounts of type {:?} are not supported yet", cut(other));
                            reader.refuse_value(&field, cause, USE_VOLUME);
                            Some(Type::Other)
                        }
                        None => Some(Type::Other),
                    };
                }
                "source" => source = Some((reader.full_text(&field), field)),
                "target" => target = Some(absolute_path(reader, &field)),
                "read_only" => read_only = Some((reader.boolean(&field).unwrap_or_default(), field)),
                "tmpfs" => {
                    for (key, field) in reader.entries(&field) {
                        match key {
                            "size" => size_bytes = process::bytes(reader, &field),
                            "mode" => mode = octal_mode(reader, &field),
                            other => reader.unknown(&field, other, &known::MOUNT_TMPFS),
                        }
                    }
                    tmpfs_at = Some(field);
                }
                other => reader.unknown(&field, other, &known::MOUNT),
            }
        }
        if kind.is_none() {
            reader.refuse_value(&field, "a mount needs a `type`", "write `type: volume` or `type: tmpfs`");
        }
        if target.is_none() {
            reader.refuse_value(&field, "a mount needs a `target`", "write the path inside as `target`");
        }
        let (Some(kind), Some(target)) = (kind, target.flatten()) else { return };
        match kind {
            Type::Other => {}
            Type::Tmpfs => {
                for (field, what) in [
                    (source.map(|(_, field)| field), "source"),
                    (read_only.map(|(_, field)| field), "read_only"),
                ] {
                    if let Some(field) = field {
                        let cause = format!("a tmpfs has no `{what}`");
                        reader.refuse(field.key_at, &field.path, cause, "remove it");
                    }
                }
                self.tmpfs.push(Placed { mount: Tmpfs { target, size_bytes, mode }, field }.split());
            }
            Type::Volume => {
                if let Some(field) = tmpfs_at {
                    reader.refuse(field.key_at, &field.path, "a volume has no `tmpfs`", "remove it");
                }
                let read_only = read_only.is_some_and(|(value, _)| value);
                match source {
                    Some((Some(volume), source)) => {
                        if named(reader, &source, &volume) {
                            let mount = VolumeMount { volume, target, read_only };
                            self.volumes.push(Placed { mount, field }.split());
                        }
                    }
                    Some((None, _)) => {}
                    None => reader.refuse_value(&field, "this volume has no name", USE_VOLUME),
                }
            }
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
            self.tmpfs.push(Placed { mount, field: item }.split());
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
            clashes.volume(name, &mount.volume, origin.at, &origin.path);
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
