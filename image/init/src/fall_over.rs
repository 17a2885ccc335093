//! What is done where the root of the command line cannot be booted: the boot loader is told to take the other one, or,
//! where there is none, whoever stands before the machine is told what to do.

use crate::block::{self, Disk};
use crate::entry::Plan;
use crate::verity::RootHash;
use crate::{esp, log};

/// Why the root cannot be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// No disk has a hash tree with this root hash: there is no such slot, or its first blocks are damaged.
    Missing,
    /// A block of the root does not fit its hash.
    Damaged {
        /// The disk that it lies on.
        disk: Disk,
        /// Its device file.
        root: String,
        /// The first such block.
        block: u64,
    },
    /// Several disks hold this system, and nothing tells which is the machine's: the wrong one would bring its own
    /// identity and data.
    Alike(Vec<Disk>),
}

impl Trouble {
    /// In plain words.
    fn describe(&self, root_hash: &RootHash) -> String {
        match self {
            Self::Missing => format!("no disk holds a sound system with root hash {root_hash}"),
            Self::Damaged { root, block, .. } => format!("the system on {root} is damaged (block {block})"),
            Self::Alike(disks) => {
                let names: Vec<&str> = disks.iter().map(Disk::name).collect();
                format!("the disks {} hold the same system", names.join(" and "))
            }
        }
    }

    /// Disks whose entries may boot this root.
    fn disks(&self) -> Vec<Disk> {
        let ours = |disk: &Disk| disk.layout().is_some_and(|layout| !layout.slots.is_empty());
        match self {
            // What somebody has plugged in comes last: its entries are not those that led here.
            Self::Missing => {
                let mut disks: Vec<Disk> = block::disks().into_iter().filter(ours).collect();
                disks.sort_by_key(Disk::is_pluggable);
                disks
            }
            Self::Damaged { disk, .. } => vec![disk.clone()],
            Self::Alike(_) => Vec::new(),
        }
    }
}

/// How it goes on after a reboot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// The boot loader takes another entry; the text says why.
    OtherEntry(String),
    /// There is nothing else to boot; the text is for the console.
    Nothing(String),
}

/// Marks the entries of this root as spent, on the first disk that has any.
pub(crate) fn run(trouble: &Trouble, root_hash: &RootHash) -> Next {
    let why = trouble.describe(root_hash);
    if matches!(trouble, Trouble::Alike(_)) {
        return Next::Nothing(advice_on_twins(&why));
    }
    let disks = trouble.disks();
    for disk in &disks {
        match esp::mark_spent(disk, root_hash) {
            Ok(Plan::MarkSpent { .. }) => return Next::OtherEntry(why),
            Ok(Plan::NoOther) => break,
            Ok(Plan::NotListed) => log(&format!("no boot entry on {} boots this root", disk.name())),
            Err(error) => log(&error),
        }
    }
    Next::Nothing(advice(&why, disks.first()))
}

/// What the console says for as long as there is nothing to boot.
fn advice(why: &str, disk: Option<&Disk>) -> String {
    let disk = match disk {
        Some(disk) => format!("Write the system to the disk {} again", disk.name()),
        None => "No disk of this system was found: check that it is connected.\nIf it is, write the system to it again"
            .to_owned(),
    };
    format!(
        "\n*** This machine cannot start: {why}, ***\n\
         *** and there is no other system to start instead.\n\
         {disk} from another machine, with: cairn-image flash IMAGE DISK\n\
         The data partition (cairn-data) has not been touched: save it before that if you need what it holds.\n\
         The machine starts again in a minute, in case the fault was a passing one.\n\n"
    )
}

/// The same where a disk too many is connected.
fn advice_on_twins(why: &str) -> String {
    format!(
        "\n*** This machine does not start: {why}, ***\n\
         *** and nothing tells which of them is the machine's own. None has been written to.\n\
         Unplug the one that does not belong to this machine, or erase it in another one.\n\
         The machine starts again in a minute.\n\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_disks_alike_none_is_taken_and_the_console_says_why() {
        let hash = RootHash::parse(&"0a".repeat(32)).unwrap();
        let alike = Trouble::Alike(vec![Disk::named("sda"), Disk::named("sdb")]);
        let Next::Nothing(text) = run(&alike, &hash) else { panic!("no entry is to be changed") };
        for part in ["the disks sda and sdb hold the same system", "Unplug the one", "None has been written"]
        {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn the_console_says_what_is_wrong_and_what_to_do() {
        let disk = Disk::named("vda");
        let damaged = Trouble::Damaged { disk: disk.clone(), root: "/dev/vda2".into(), block: 12 };
        let hash = RootHash::parse(&"0a".repeat(32)).unwrap();
        let text = advice(&damaged.describe(&hash), Some(&disk));
        for part in ["/dev/vda2 is damaged (block 12)", "disk vda", "cairn-image flash", "not been touched"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        let text = advice(&Trouble::Missing.describe(&hash), None);
        assert!(text.contains("check that it is connected") && text.contains("0a0a"), "{text}");
    }
}
