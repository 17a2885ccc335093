//! `./x demo`: the product's main job from a clone, each step with a line.

use std::{
    io::{self, BufRead, IsTerminal},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use cairn_tests_vm::{
    Hub, Lab, Vm,
    lab::{READY_DEADLINE, fetch, wait_node},
};

use crate::{
    examples,
    image::{self, Flavour},
    setup,
};

/// The node's ports that the demo's app publishes.
const PORTS: [u16; 2] = [8080, 8081];

/// A first boot makes keys and grows the disk.
const PAGE_DEADLINE: Duration = Duration::from_secs(60);

/// Runs the demo; with `once` it ends by itself.
pub(crate) fn run(once: bool) -> Result<()> {
    std::env::set_current_dir(crate::root()).context("the workspace's folder is gone")?;
    headline(1, "build the programs, the appliance image and the two guests");
    setup::ensure(setup::Need::Demo)?;
    image::build(Flavour::Production)?;
    examples::build()?;

    headline(2, "start a hub on the loopback");
    let lab = Lab::with_image("demo", "image")?;
    let hub = lab.hub()?;
    print!(
        "{}",
        std::fs::read_to_string(lab.dir().join("hub/init.log")).context("the hub's init said nothing")?
    );
    say(&format!("the hub is at {}", hub.url()));

    headline(3, "put a container image and a wasm component into it");
    lab.push_examples(&hub)?;
    show(&hub, &["artifact", "ls"])?;

    headline(4, "boot a node in QEMU and let it enrol");
    let token = hub.token(&["--label", "site=demo", "--auto-approve"])?;
    let vm = lab.power_on(&hub, 1, &token, &PORTS)?;
    say("the node boots (a minute without KVM), and enrols with its token");
    wait_node(&hub, |node| node["state"] == "approved" && node["online"] == true)
        .with_context(|| format!("the end of the node's console:\n{}", vm.console_tail()))?;
    show(&hub, &["node", "ls"])?;

    headline(5, "deploy an app of both: examples/compose.yaml");
    show(&hub, &["app", "deploy", "examples/compose.yaml"])?;
    hub.wait_app_ready("demo", READY_DEADLINE)?;
    show(&hub, &["app", "status", "demo"])?;
    for port in PORTS {
        let from_here = vm.forwarded(port).context("the port is not forwarded")?;
        let page = fetch(from_here, "/", PAGE_DEADLINE)?;
        ensure!(!page.trim().is_empty(), "the page on the node's port {port} is empty");
        say(&format!("http://127.0.0.1:{from_here}/ (the node's port {port}): {}", first_line(&page)));
    }

    headline(6, "what you can try next, in another terminal");
    next_steps(&lab, &hub, &vm);
    if !once && io::stdin().is_terminal() {
        println!("\nPress Enter to stop the node and the hub.");
        io::stdin().lock().lines().next();
    }
    println!("\nstopped the node and the hub; their logs and disk are in {}", lab.dir().display());
    Ok(())
}

fn headline(step: u32, what: &str) {
    println!("\n[{step}/6] {what}");
}

fn say(what: &str) {
    println!("  {what}");
}

/// Runs `cairn` as the user would type it, and shows what it prints.
fn show(hub: &Hub, args: &[&str]) -> Result<()> {
    println!("  $ cairn {}", args.join(" "));
    for line in hub.cairn(args)?.lines() {
        println!("{}", format!("  {line}").trim_end());
    }
    Ok(())
}

fn first_line(page: &str) -> String {
    let text: String = page.replace(|c: char| c.is_control(), " ");
    let visible =
        regex::Regex::new("<[^>]*>").map(|tag| tag.replace_all(&text, " ").into_owned()).unwrap_or(text);
    visible.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(120).collect()
}

fn next_steps(lab: &Lab, hub: &Hub, vm: &Vm) {
    let config = lab.dir().join("hub/config");
    println!("  export XDG_CONFIG_HOME={} PATH={}:$PATH", config.display(), lab.binaries().display());
    for command in [
        "cairn node ls",
        "cairn app status demo --watch",
        "cairn app logs demo",
        "cairn audit ls",
        "cairn app rm demo",
    ] {
        println!("  {command}");
    }
    for port in PORTS {
        println!("  curl http://127.0.0.1:{}/", vm.forwarded(port).unwrap_or_default());
    }
    println!("  curl --cacert {} {}/api/v1/openapi.json", hub.ca_file().display(), hub.url());
}

#[cfg(test)]
mod tests {
    use super::first_line;

    #[test]
    fn a_page_is_shown_as_text() {
        assert_eq!(first_line("<html><h1>Hello</h1>\n<p>from  Cairn</p></html>"), "Hello from Cairn");
    }
}
