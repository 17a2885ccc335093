//! What a workload file says is what the container gets.

use std::{
    fs,
    os::unix::fs::symlink,
    process::{Command, Stdio},
};

use cairn_model::workload::Mount;
use nix::sys::signal::{Signal, kill};

use crate::support::{Finished, Replica, busybox_root};

#[test]
fn exit_code_is_the_commands() {
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("exit 255", 255)] {
        let replica = Replica::new(script);
        assert_eq!(replica.run().code, Some(code), "{script}");
        replica.assert_nothing_left();
    }
    Replica::of_command(&["/bin/true"]).run().ok();
}

#[test]
fn death_by_signal_is_128_and_the_signal() {
    let replica =
        Replica::new("trap 'kill -9 $child; exit 3' TERM; sleep 1000 & child=$!; touch /ready; wait");
    let shim = replica.start();
    replica.wait_inside("/ready");
    kill(shim.pid(), Signal::SIGTERM).unwrap();
    assert_eq!(shim.ends(), Some(3), "SIGTERM was not forwarded");
    let mut replica = Replica::of_command(&["/bin/sleep", "1000"]);
    replica.workload.init = true;
    let shim = replica.start();
    // A signal that comes before the mini init watches for it is kept, not lost.
    kill(shim.pid(), Signal::SIGTERM).unwrap();
    assert_eq!(shim.ends(), Some(143));
}

#[test]
fn env_args_cwd_hostname_and_user_arrive() {
    let mut replica = Replica::of_command(&[
        "/bin/sh",
        "-c",
        "env; pwd; hostname; id -u; id -g; id -G; echo \"$1\"",
        "sh",
        "a b\n$(c)",
    ]);
    replica.workload.env = vec!["NAME=value with = and spaces".to_owned()];
    replica.workload.cwd = "/tmp".to_owned();
    replica.workload.user = "web".to_owned();
    let output = replica.run().ok();
    for line in [
        "NAME=value with = and spaces",
        "HOME=/srv",
        "HOSTNAME=box",
        "/tmp",
        "box",
        "33",
        "34",
        "34 50",
        "a b",
        "$(c)",
    ] {
        assert!(output.lines().any(|l| l == line), "{line:?} is missing in {output}");
    }
    assert!(!output.contains("CARGO"), "the runtime's own environment leaks: {output}");
}

#[test]
fn numeric_user_need_not_exist_and_unknown_name_is_refused() {
    let mut replica = Replica::new("id -u; id -g");
    replica.workload.user = "1234:5678".to_owned();
    assert_eq!(replica.run().ok(), "1234\n5678\n");
    replica.workload.user = "nobody".to_owned();
    assert!(replica.run().refused().contains("user \"nobody\" is not in the image's /etc/passwd"));
    replica.assert_nothing_left();
}

#[test]
fn missing_command_is_refused_with_its_name() {
    let replica = Replica::of_command(&["/no/such"]);
    assert!(replica.run().refused().contains("command \"/no/such\" is not an executable file in the image"));
    replica.assert_nothing_left();
}

#[test]
fn command_of_another_format_ends_with_126() {
    let replica = Replica::of_command(&["/bin/garbage"]);
    fs::write(replica.path("layer/bin/garbage"), [0x7f, b'E', b'L', b'F', 9, 9]).unwrap();
    Command::new("chmod").arg("755").arg(replica.path("layer/bin/garbage")).status().unwrap();
    let finished = replica.run();
    assert_eq!(finished.code, Some(126), "{}", finished.stderr);
}

#[test]
fn output_to_dev_null_is_no_error() {
    let replica = Replica::new("echo a && echo b >&2");
    let status = replica.command("run").stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn read_only_root_refuses_writes_but_not_to_mounts() {
    let mut replica = Replica::new("touch /x 2>/dev/null && exit 1; touch /data/y && touch /dev/shm/z");
    replica.workload.read_only = true;
    replica.workload.mounts.push(Mount::Tmpfs {
        target: "/data".into(),
        size_bytes: Some(1 << 20),
        mode: None,
    });
    replica.run().ok();
}

#[test]
fn tmpfs_is_bounded() {
    let mut replica =
        Replica::new("dd if=/dev/zero of=/data/x bs=65536 count=100 2>/dev/null && exit 1; exit 0");
    replica.workload.mounts.push(Mount::Tmpfs {
        target: "/data".into(),
        size_bytes: Some(1 << 20),
        mode: Some(0o700),
    });
    replica.run().ok();
}

#[test]
fn volume_persists_and_read_only_volume_does_not_change() {
    let replica = Replica::new(
        "cat /data/count /data/count > /tmp/c 2>/dev/null; echo x >> /data/count; cat /data/count",
    );
    let volume = replica.path("volume");
    fs::create_dir(&volume).unwrap();
    let mut replica = replica.bind(&volume, "/data", false);
    assert_eq!(replica.run().ok(), "x\n");
    assert_eq!(replica.run().ok(), "x\nx\n");
    replica.workload.mounts = vec![Mount::Bind { source: volume, target: "/data".into(), read_only: true }];
    assert_ne!(replica.run().code, Some(2), "the write's failure is not the last command");
    assert_eq!(replica.run().ok(), "x\nx\n");
}

#[test]
fn writable_layer_outlives_the_container_but_not_the_image() {
    let mut replica = Replica::new("echo x >> /count; cat /count");
    replica.workload.writable_dir = Some(replica.path("upper"));
    assert_eq!(replica.run().ok(), "x\n");
    assert_eq!(replica.run().ok(), "x\nx\n");
    let other = replica.path("other");
    busybox_root(&other);
    replica.workload.layers = vec![other];
    assert_eq!(replica.run().ok(), "x\n");
}

#[test]
fn layers_lie_over_each_other_in_order() {
    let mut replica = Replica::new("cat /name");
    let base = replica.workload.layers[0].clone();
    fs::write(base.join("name"), "base").unwrap();
    // Far more than fit into one page of mount options.
    let mut layers: Vec<_> = (0..150)
        .map(|n| {
            let layer =
                replica.path(&format!("a-layer-with-a-name-that-is-as-long-as-a-digest-would-be-{n:010}"));
            fs::create_dir(&layer).unwrap();
            fs::write(layer.join("name"), format!("{n}")).unwrap();
            layer
        })
        .collect();
    layers.push(base);
    replica.workload.layers = layers;
    assert_eq!(replica.run().ok(), "0");
}

#[test]
fn etc_files_are_generated_even_over_dangling_symlinks() {
    let mut replica = Replica::new("cat /etc/hosts /etc/hostname; test -f /etc/resolv.conf");
    let etc = replica.path("layer/etc");
    symlink("../run/systemd/resolve/stub-resolv.conf", etc.join("resolv.conf")).unwrap();
    symlink("/nowhere", etc.join("hosts")).unwrap();
    replica.workload.extra_hosts = vec![("db".to_owned(), "10.1.2.3".to_owned())];
    let output = replica.run().ok();
    assert!(output.contains("127.0.0.1\tlocalhost"), "{output}");
    assert!(output.contains("10.1.2.3\tdb"), "{output}");
    assert!(output.ends_with("box\n"), "{output}");
}

#[test]
fn ulimits_and_sysctls_are_set() {
    let mut replica = Replica::new("ulimit -n; ulimit -c; cat /proc/sys/kernel/shmmni");
    replica.workload.ulimits = vec![("RLIMIT_NOFILE".to_owned(), 77, 99), ("RLIMIT_CORE".to_owned(), 0, 0)];
    replica.workload.sysctls = [("kernel.shmmni".to_owned(), "123".to_owned())].into();
    assert_eq!(replica.run().ok(), "77\n0\n123\n");
}

#[test]
fn init_reaps_orphans() {
    // The shell's own child becomes an orphan; without an init it would stay a zombie beside `sleep`.
    let mut replica = Replica::of_command(&["/bin/sleep", "1000"]);
    replica.workload.init = true;
    let shim = replica.start();
    replica.exec(&["sh", "-c", "(sleep 0 & )"]).ok();
    crate::support::wait_for("the orphan to be reaped", || {
        let Finished { stdout, .. } =
            replica.exec(&["sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ' Z '"]);
        stdout.trim() == "0"
    });
    assert!(replica.exec(&["cat", "/proc/1/comm"]).ok().starts_with("cairn-init"));
    kill(shim.pid(), Signal::SIGTERM).unwrap();
    assert_eq!(shim.ends(), Some(143));
}

#[test]
fn malformed_workloads_are_refused() {
    let replica = Replica::new("true");
    let check = |change: &dyn Fn(&mut cairn_model::workload::OciWorkload), message: &str| {
        let mut other = Replica::new("true");
        change(&mut other.workload);
        let error = other.run().refused();
        assert!(error.contains(message), "{message:?} is missing in {error}");
    };
    check(&|w| w.id = "../x".to_owned(), "is not 1 to 100 of");
    check(&|w| w.hostname = "a\n10.0.0.1 bank".to_owned(), "hostname");
    check(&|w| w.args.clear(), "args is empty");
    check(&|w| w.layers.clear(), "layers is empty");
    check(&|w| w.env.push("SECRET".to_owned()), "is not NAME=value");
    check(&|w| w.cwd = "tmp".to_owned(), "is not absolute");
    check(&|w| w.cap_add.push("CAP_NO_SUCH".to_owned()), "is unknown");
    check(&|w| w.layers.push("/no:such".into()), "has a colon");
    check(&|w| w.ulimits.push(("RLIMIT_X".to_owned(), 1, 1)), "ulimit \"RLIMIT_X\" is unknown");
    fs::write(replica.path("workload.json"), "{\"id\": 1}").unwrap();
    let output = crate::support::cairn_oci().arg("run").arg(replica.path("workload.json")).output().unwrap();
    assert!(Finished::of(output).refused().contains("failed to read workload"));
}
