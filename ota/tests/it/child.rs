//! Tests in a process of their own: fault points are global, and a process that is killed must not be the whole run.

use std::{
    env,
    process::{Command, Output},
};

/// Set in the child, to the name of its test.
const NAME: &str = "CAIRN_OTA_CHILD";

/// Runs the calling test in a process of its own. True in the parent, once it has passed there; false in the child.
pub(crate) fn alone(test: &str) -> bool {
    if is(test) {
        return false;
    }
    let output = run(test, &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    true
}

/// Whether this process was started for that test.
pub(crate) fn is(test: &str) -> bool {
    env::var(NAME).is_ok_and(|name| name == test)
}

/// One test in a process of its own.
pub(crate) fn run(test: &str, variables: &[(&str, &str)]) -> Output {
    Command::new(env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(NAME, test)
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}
