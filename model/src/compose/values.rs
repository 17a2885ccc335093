//! Values inside scalars: durations, byte sizes, CPUs, signals, capabilities.

/// The signals that `stop_signal` may name, by Linux's numbers on every architecture that we run on.
const SIGNALS: [(&str, u32); 29] = [
    ("SIGHUP", 1), ("SIGINT", 2), ("SIGQUIT", 3), ("SIGILL", 4), ("SIGTRAP", 5), ("SIGABRT", 6), ("SIGBUS", 7),
    ("SIGFPE", 8), ("SIGKILL", 9), ("SIGUSR1", 10), ("SIGSEGV", 11), ("SIGUSR2", 12), ("SIGPIPE", 13),
    ("SIGALRM", 14), ("SIGTERM", 15), ("SIGSTKFLT", 16), ("SIGCHLD", 17), ("SIGCONT", 18), ("SIGSTOP", 19),
    ("SIGTSTP", 20), ("SIGTTIN", 21), ("SIGTTOU", 22), ("SIGURG", 23), ("SIGXCPU", 24), ("SIGXFSZ", 25),
    ("SIGVTALRM", 26), ("SIGPROF", 27), ("SIGWINCH", 28), ("SIGPWR", 30),
];

/// `SIGTERM` for `SIGTERM`, `sigterm`, `TERM` or `15`.
pub fn signal_name(text: &str) -> Option<&'static str> {
    let upper = text.to_ascii_uppercase();
    let number = text.parse::<u32>().ok();
    let found = SIGNALS.iter().find(|(name, signal)| {
        *name == upper || name.strip_prefix("SIG") == Some(&upper) || Some(*signal) == number
    });
    found.map(|(name, _)| *name)
}
