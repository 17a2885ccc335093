//! What a container must not be able to do.

use std::{fs, os::unix::fs::symlink};

use cairn_model::workload::Mount;

use crate::support::Replica;

/// Docker's default set without `CAP_MKNOD`, as bits.
const DEFAULT_CAPABILITIES: &str = "00000000a00425fb";

fn status_field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().to_owned()
}

#[test]
fn capabilities_filter_and_no_new_privileges_are_on_by_default() {
    let status = Replica::new("cat /proc/self/status").run().ok();
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(status_field(&status, set), DEFAULT_CAPABILITIES, "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(status_field(&status, set), "0000000000000000", "{set}");
    }
    assert_eq!(status_field(&status, "Seccomp"), "2");
    assert_eq!(status_field(&status, "NoNewPrivs"), "1");
}

#[test]
fn capabilities_can_be_dropped_and_added() {
    let mut replica = Replica::new("cat /proc/self/status");
    replica.workload.cap_drop = vec!["ALL".to_owned()];
    replica.workload.cap_add = vec!["CAP_NET_BIND_SERVICE".to_owned()];
    assert_eq!(status_field(&replica.run().ok(), "CapEff"), "0000000000000400");
}

#[test]
fn other_user_holds_no_capability() {
    let mut replica = Replica::new("cat /proc/self/status");
    replica.workload.user = "web".to_owned();
    assert_eq!(status_field(&replica.run().ok(), "CapEff"), "0000000000000000");
}

#[test]
fn mounts_namespaces_and_kernel_switches_are_out_of_reach() {
    for script in [
        "mount -t tmpfs none /tmp",
        "unshare -n true",
        "unshare -U true",
        "echo 1 > /proc/sys/kernel/panic",
        "echo h > /proc/sysrq-trigger",
        "mkdir /sys/x",
        "echo x > /etc/hosts",
    ] {
        let finished = Replica::new(&format!("({script}) 2>/dev/null && exit 42; exit 9")).run();
        assert_eq!(finished.code, Some(9), "{script} worked: {}", finished.stderr);
    }
}

#[test]
fn kernel_files_of_the_node_are_masked() {
    let output =
        Replica::new("cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null; ls /sys/firmware").run().ok();
    assert_eq!(output, "");
}

#[test]
fn sees_its_own_processes_and_interfaces_only() {
    let output = Replica::new("ls -d /proc/[0-9]*; ls /sys/class/net; ip -o addr show lo").run().ok();
    assert!(output.contains("/proc/1\n") && !output.contains("/proc/10"), "{output}");
    assert!(output.contains("lo\n") && !output.contains("eth"), "{output}");
    assert!(output.contains("127.0.0.1"), "loopback is down: {output}");
}

#[test]
fn device_nodes_of_the_image_are_dead() {
    let replica = Replica::new("cat /kmsg 2>/dev/null && exit 1; exit 0");
    let status =
        std::process::Command::new("mknod").arg(replica.path("layer/kmsg")).args(["c", "1", "5"]).status();
    assert!(status.unwrap().success());
    replica.run().ok();
}

#[test]
fn inherits_no_descriptor() {
    // 3 is `ls`'s own, open on the folder that it lists.
    assert_eq!(Replica::new("ls /proc/self/fd").run().ok(), "0\n1\n2\n3\n");
}

#[test]
fn rejects_mount_over_the_containers_own_folders() {
    for target in ["/", "/proc", "/proc/sys", "/sys/kernel", "/dev", "/data/../proc"] {
        let mut replica = Replica::new("true");
        replica.workload.mounts.push(Mount::Tmpfs { target: target.into(), size_bytes: None, mode: None });
        let error = replica.run().refused();
        assert!(error.contains("mount target"), "{target}: {error}");
    }
}

#[test]
fn rejects_bind_source_that_is_a_symlink_or_missing() {
    let replica = Replica::new("true");
    symlink("/etc", replica.path("link")).unwrap();
    let (link, missing) = (replica.path("link"), replica.path("missing"));
    assert!(replica.bind(&link, "/data", true).run().refused().contains("goes through a symlink"));
    assert!(Replica::new("true").bind(&missing, "/data", true).run().refused().contains("does not exist"));
}

#[test]
fn mount_target_symlink_in_the_image_stays_in_the_image() {
    let replica = Replica::new("cat /real/file");
    fs::create_dir(replica.path("layer/real")).unwrap();
    symlink("/real", replica.path("layer/data")).unwrap();
    let volume = replica.path("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("file"), "in the volume").unwrap();
    assert_eq!(replica.bind(&volume, "/data", true).run().ok(), "in the volume");
    assert!(!std::path::Path::new("/real").exists());
}

#[test]
fn rejects_sysctl_of_the_whole_node() {
    let mut replica = Replica::new("true");
    replica.workload.sysctls = [("vm.swappiness".to_owned(), "1".to_owned())].into();
    assert!(replica.run().refused().contains("not per container"));
}
