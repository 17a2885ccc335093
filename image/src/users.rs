//! Users and groups: Debian's base list and the sysusers.d snippets of the packages, with ids that never move from one
//! image to the next (files on the data partition carry them). Nobody has a password.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, bail};

use crate::glob;
use crate::tree::{Node, Tree};

/// Ids for snippets that leave the choice open.
const FIXED_IDS: &str = include_str!("../base/ids.list");

/// Group that may read password hashes.
const SHADOW_GID: u32 = 42;

/// The id that NixOS gives to the group systemd-journal on every machine (its ids.nix).
const NIXOS_JOURNAL_GID: u32 = 62;

#[derive(Debug)]
struct User {
    uid: u32,
    gid: u32,
    gecos: String,
    home: String,
    shell: String,
}

/// Users and groups by name.
#[derive(Debug, Default)]
pub struct Users {
    users: BTreeMap<String, User>,
    groups: BTreeMap<String, u32>,
    members: BTreeMap<String, Vec<String>>,
}

impl Users {
    /// Reads the masters and every snippet in the tree.
    pub fn read(tree: &Tree) -> Result<Self> {
        let mut users = Self::default();
        users.read_masters(
            &tree.text("usr/share/base-passwd/passwd.master")?,
            &tree.text("usr/share/base-passwd/group.master")?,
        )?;
        let snippets: Vec<String> = tree
            .children("usr/lib/sysusers.d")
            .filter(|(path, _)| path.ends_with(".conf"))
            .map(|(path, _)| path.to_owned())
            .collect();
        for path in snippets {
            users.read_snippet(&tree.text(&path)?).with_context(|| format!("failed to read {path}"))?;
        }
        Ok(users)
    }

    /// Those of a system that makes its own: only what the data partition's first folders need.
    pub fn of_nixos() -> Self {
        Self { groups: BTreeMap::from([("systemd-journal".into(), NIXOS_JOURNAL_GID)]), ..Self::default() }
    }

    /// Group id by name.
    pub fn group(&self, name: &str) -> Result<u32> {
        self.groups
            .get(name)
            .copied()
            .with_context(|| format!("there is no group {name}; is its package in the lock?"))
    }

    fn read_masters(&mut self, passwd: &str, group: &str) -> Result<()> {
        for line in group.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, gid, ..] = fields.as_slice() else {
                bail!("group.master line '{line}' is malformed")
            };
            self.groups.insert((*name).into(), gid.parse().context("gid")?);
        }
        for line in passwd.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, gecos, home, shell] = fields.as_slice() else {
                bail!("passwd.master line '{line}' is malformed")
            };
            let (uid, gid) = (uid.parse().context("uid")?, gid.parse().context("gid")?);
            let shell = if *name == "root" { "/usr/sbin/nologin" } else { shell };
            let user = User { uid, gid, gecos: (*gecos).into(), home: (*home).into(), shell: shell.into() };
            self.users.insert((*name).into(), user);
        }
        Ok(())
    }

    fn read_snippet(&mut self, text: &str) -> Result<()> {
        for line in glob::lines(text) {
            let fields = split_quoted(line);
            let field = |index: usize| fields.get(index).map_or("-", String::as_str);
            match field(0).trim_end_matches('!') {
                "g" => {
                    self.add_group(field(1), field(2))?;
                }
                "u" => self.add_user(field(1), field(2), field(3), field(4), field(5))?,
                "m" => self.members.entry(field(2).into()).or_default().push(field(1).into()),
                "r" => {}
                other => bail!("line type '{other}' is not known"),
            }
        }
        Ok(())
    }

    fn add_group(&mut self, name: &str, id: &str) -> Result<u32> {
        if let Some(gid) = self.groups.get(name) {
            return Ok(*gid);
        }
        let gid = number(name, id)?;
        self.groups.insert(name.into(), gid);
        Ok(gid)
    }

    fn add_user(&mut self, name: &str, id: &str, gecos: &str, home: &str, shell: &str) -> Result<()> {
        if self.users.contains_key(name) {
            return Ok(());
        }
        let (uid, gid) = match id.split_once(':') {
            Some((uid, gid)) => {
                let gid = if gid.parse::<u32>().is_ok() { gid.parse()? } else { self.group(gid)? };
                (number(name, uid)?, gid)
            }
            None => (number(name, id)?, self.add_group(name, id)?),
        };
        let or = |value: &str, default: &str| if value == "-" { default.into() } else { value.to_owned() };
        let user = User {
            uid,
            gid,
            gecos: or(gecos, ""),
            home: or(home, "/"),
            shell: or(shell, "/usr/sbin/nologin"),
        };
        self.users.insert(name.into(), user);
        Ok(())
    }

    /// Writes passwd, group, shadow and gshadow; every password is locked.
    pub fn write(&self, tree: &mut Tree) -> Result<()> {
        let (mut passwd, mut shadow, mut group, mut gshadow) =
            (String::new(), String::new(), String::new(), String::new());
        let mut users: Vec<_> = self.users.iter().collect();
        users.sort_by_key(|(name, user)| (user.uid, name.as_str()));
        for (name, user) in users {
            let _ = writeln!(
                passwd,
                "{name}:x:{}:{}:{}:{}:{}",
                user.uid, user.gid, user.gecos, user.home, user.shell
            );
            let _ = writeln!(shadow, "{name}:!*:1::::::");
        }
        let mut groups: Vec<_> = self.groups.iter().collect();
        groups.sort_by_key(|(name, gid)| (**gid, name.as_str()));
        for (name, gid) in groups {
            let members = self.members.get(name).map(|list| list.join(",")).unwrap_or_default();
            let _ = writeln!(group, "{name}:x:{gid}:{members}");
            let _ = writeln!(gshadow, "{name}:!*::{members}");
        }
        tree.file("etc/passwd", 0o644, passwd)?;
        tree.file("etc/group", 0o644, group)?;
        tree.insert("etc/shadow", Node::file(0o640, shadow).owned_by(0, SHADOW_GID))?;
        tree.insert("etc/gshadow", Node::file(0o640, gshadow).owned_by(0, SHADOW_GID))
    }
}

/// A given id, or the fixed one of that name.
fn number(name: &str, id: &str) -> Result<u32> {
    if let Ok(id) = id.parse() {
        return Ok(id);
    }
    let fixed = glob::lines(FIXED_IDS).find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    fixed.with_context(|| {
        format!("'{name}' has no fixed id; add it to image/base/ids.list with an unused one")
    })
}

/// Splits at spaces; double quotes hold a field together.
fn split_quoted(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                if fields.last().is_some_and(|field| !field.is_empty()) {
                    fields.push(String::new());
                }
            }
            c => {
                if let Some(field) = fields.last_mut() {
                    field.push(c);
                }
            }
        }
    }
    fields.retain(|field| !field.is_empty());
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(snippet: &str) -> Result<Users> {
        let mut tree = Tree::default();
        tree.file("usr/share/base-passwd/passwd.master", 0o644, "root:*:0:0:root:/root:/bin/bash\n").unwrap();
        tree.file("usr/share/base-passwd/group.master", 0o644, "root:*:0:\nnogroup:*:65534:\n").unwrap();
        tree.file("usr/lib/sysusers.d/a.conf", 0o644, snippet).unwrap();
        Users::read(&tree)
    }

    #[test]
    fn nobody_has_a_password_and_root_has_no_shell() {
        let users =
            sample("u! messagebus - \"Message Bus\" /nonexistent\ng kvm -\nu x 7:nogroup - /x\n").unwrap();
        let mut tree = Tree::default();
        users.write(&mut tree).unwrap();
        let passwd = tree.text("etc/passwd").unwrap();
        assert!(passwd.contains("root:x:0:0:root:/root:/usr/sbin/nologin\n"), "{passwd}");
        assert!(passwd.contains("x:x:7:65534::/x:/usr/sbin/nologin\n"), "{passwd}");
        assert!(passwd.contains(":Message Bus:/nonexistent:/usr/sbin/nologin\n"), "{passwd}");
        assert!(tree.text("etc/shadow").unwrap().lines().all(|line| line.contains(":!*:")));
        assert_eq!(tree.get("etc/shadow").unwrap().mode, 0o640);
    }

    #[test]
    fn an_id_that_could_move_is_refused_with_the_cure() {
        let error = format!("{:#}", sample("u never-heard-of - x\n").unwrap_err());
        assert!(error.contains("image/base/ids.list"), "{error}");
        assert!(sample("z a b\n").is_err());
    }
}
