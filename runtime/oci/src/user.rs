//! Who the container runs as: `user[:group]` looked up in the image's own passwd and group files. The files are the
//! image's, so they are opened beneath its root, must be regular, and are read up to a limit.

use std::{
    fs::File,
    io::Read,
    os::fd::{AsFd, OwnedFd},
};

use anyhow::{Context, Result, bail};
use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// Largest passwd or group file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most supplementary groups that the kernel takes.
const MAX_GROUPS: usize = 65_536;

/// What a process of the container runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// Looks `user` (`name|uid[:name|gid]`, empty for root) up in the image mounted at `root`.
pub(crate) fn look_up(root: &OwnedFd, user: &str) -> Result<Identity> {
    let passwd = read(root, "etc/passwd")?;
    let group = read(root, "etc/group")?;
    resolve(user, &passwd, &group)
}

fn resolve(user: &str, passwd: &str, group: &str) -> Result<Identity> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let account = account(passwd, user);
    let (uid, mut gid, home) = match (&account, user.parse::<u32>()) {
        (Some(account), _) => (account.uid, account.gid, account.home.clone()),
        (None, Ok(uid)) => (uid, 0, String::new()),
        (None, Err(_)) => {
            bail!("user {user:?} is not in the image's /etc/passwd; use a number or add the user")
        }
    };
    let mut groups = Vec::new();
    match wanted_group.filter(|g| !g.is_empty()) {
        Some(wanted) => {
            gid = match (group_id(group, wanted), wanted.parse::<u32>()) {
                (Some(gid), _) | (None, Ok(gid)) => gid,
                (None, Err(_)) => {
                    bail!("group {wanted:?} is not in the image's /etc/group; use a number or add the group")
                }
            };
        }
        // A group that was asked for replaces those of the group file, as with Docker.
        None => groups = account.map(|account| memberships(group, &account.name)).unwrap_or_default(),
    }
    Ok(Identity { uid, gid, groups, home: if home.starts_with('/') { home } else { "/".to_owned() } })
}

struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// By name first, then by number: a user may be called "1000".
fn account(passwd: &str, wanted: &str) -> Option<Account> {
    let parse = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or_default().to_owned();
        Some(Account { name, uid, gid, home })
    };
    let number = wanted.parse::<u32>().ok();
    passwd
        .lines()
        .filter_map(parse)
        .find(|account| account.name == wanted)
        .or_else(|| passwd.lines().filter_map(parse).find(|account| Some(account.uid) == number))
}

fn group_id(group: &str, wanted: &str) -> Option<u32> {
    group.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == wanted).then(|| fields.nth(1)?.parse().ok())?
    })
}

fn memberships(group: &str, name: &str) -> Vec<u32> {
    let member_of = |line: &str| {
        let mut fields = line.split(':');
        let gid = fields.nth(2)?.parse().ok()?;
        fields.next()?.split(',').any(|member| member == name).then_some(gid)
    };
    group.lines().filter_map(member_of).take(MAX_GROUPS).collect()
}

fn read(root: &OwnedFd, path: &str) -> Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let fd = match rustix::fs::openat2(root.as_fd(), path, flags, Mode::empty(), resolve) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(String::new()),
        Err(error) => return Err(error).with_context(|| format!("failed to open the image's /{path}")),
    };
    let stat = rustix::fs::fstat(&fd).with_context(|| format!("failed to look at the image's /{path}"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        bail!("the image's /{path} is not a regular file");
    }
    let mut bytes = Vec::new();
    File::from(fd)
        .take(MAX_FILE_BYTES)
        .read_to_end(&mut bytes)
        .with_context(|| format!("failed to read the image's /{path}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\n\nbroken\nweb:x:33:34:www:/srv/www:/bin/false\n7:x:70:71::/seven:\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlogs:x:50:web,other\naudio:x:29:other\n";

    #[test]
    fn users_resolve_as_with_docker() {
        let check = |user: &str, uid, gid, groups: &[u32], home: &str| {
            let expected = Identity { uid, gid, groups: groups.to_vec(), home: home.to_owned() };
            assert_eq!(resolve(user, PASSWD, GROUP).unwrap(), expected, "{user}");
        };
        check("", 0, 0, &[], "/root");
        check("web", 33, 34, &[50], "/srv/www");
        check("33", 33, 34, &[50], "/srv/www");
        check("web:logs", 33, 50, &[], "/srv/www");
        check("1000", 1000, 0, &[], "/");
        check("1000:2000", 1000, 2000, &[], "/");
        check("7", 70, 71, &[], "/seven");
        check(":logs", 0, 50, &[], "/root");
    }

    #[test]
    fn rejects_unknown_user_and_group() {
        assert!(resolve("nobody", PASSWD, GROUP).is_err());
        assert!(resolve("web:nogroup", PASSWD, GROUP).is_err());
        assert!(resolve("-1", PASSWD, GROUP).is_err());
        assert!(resolve("4294967296", PASSWD, GROUP).is_err());
    }

    #[test]
    fn never_reads_passwd_outside_of_the_image() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/../../../../etc/hostname", dir.path().join("etc/passwd")).unwrap();
        let root: OwnedFd = File::open(dir.path()).unwrap().into();
        assert_eq!(read(&root, "etc/passwd").unwrap(), "");
        std::fs::remove_file(dir.path().join("etc/passwd")).unwrap();
        std::fs::create_dir(dir.path().join("etc/passwd")).unwrap();
        assert!(read(&root, "etc/passwd").is_err());
    }
}
