//! Health probes: one small task a replica that has a health check. The verdict is a pure state machine; the task only
//! asks and waits.

use std::{net::SocketAddr, path::PathBuf, process::Stdio, time::Duration};

use cairn_model::{
    compose::{HealthCheck, Probe},
    report::Health,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

/// Until the first pass it is asked at least this often, so that what depends on it starts soon.
const EAGER_INTERVAL: Duration = Duration::from_millis(500);
/// Most of an HTTP answer that is read: the status line.
const MAX_ANSWER_BYTES: usize = 1024;

/// A program inside a container is ended by the runtime, which alone can reach it, when the check's time is up; the
/// runtime itself gets so much longer.
const INSIDE_GRACE: Duration = Duration::from_secs(10);

/// What the task says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// About which unit.
    pub unit: String,
    /// Of which start of it, so that a verdict on an earlier one is not taken for this one's.
    pub run: u64,
    /// How it stands.
    pub health: Health,
}

/// Counts passes and failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Course {
    health: Health,
    failures: u32,
    last_counted: Duration,
}

impl Course {
    /// A course that begins with what is known already: `Starting` for a replica that was just started.
    fn new(health: Health) -> Self {
        Self { health, failures: 0, last_counted: Duration::ZERO }
    }

    /// One probe that ended `at` after the start. Failures count after the start period only, and not faster than at
    /// the interval that the check asks for.
    fn probed(&mut self, check: &HealthCheck, at: Duration, passed: bool) {
        if passed {
            (self.health, self.failures) = (Health::Healthy, 0);
            return;
        }
        let eager = self.health == Health::Starting;
        if eager && (at < check.start_period || at < self.last_counted + check.interval) {
            return;
        }
        self.last_counted = at;
        self.failures = self.failures.saturating_add(1);
        if self.failures >= check.retries.max(1) {
            self.health = Health::Unhealthy;
        }
    }

    fn pause(&self, check: &HealthCheck) -> Duration {
        if self.health == Health::Starting { check.interval.min(EAGER_INTERVAL) } else { check.interval }
    }
}

/// How to reach a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Over the network, at this address and port.
    Address(SocketAddr),
    /// By a program inside: this command line runs it.
    Inside {
        /// `cairn-oci`.
        program: PathBuf,
        /// Its workload file.
        workload: PathBuf,
    },
}

/// Asks until it is dropped, beginning with the health that `about` knows, and tells every change.
pub async fn watch(about: Verdict, check: HealthCheck, reach: Reach, verdicts: mpsc::Sender<Verdict>) {
    let begun = Instant::now();
    let mut course = Course::new(about.health);
    loop {
        let before = course.health;
        let asked = timeout(patience(&check, &reach), ask(&check, &reach)).await;
        course.probed(&check, begun.elapsed(), asked.unwrap_or(false));
        if course.health != before {
            let verdict = Verdict { health: course.health, ..about.clone() };
            if verdicts.send(verdict).await.is_err() {
                return;
            }
        }
        sleep(course.pause(&check)).await;
    }
}

/// How long one probe may take before it is dropped.
fn patience(check: &HealthCheck, reach: &Reach) -> Duration {
    match reach {
        Reach::Address(_) => check.timeout,
        Reach::Inside { .. } => {
            Duration::from_secs(whole_seconds(check.timeout)).saturating_add(INSIDE_GRACE)
        }
    }
}

/// As `cairn-oci exec --timeout` takes it: rounded up, never none.
fn whole_seconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis().div_ceil(1000)).unwrap_or(u64::MAX).max(1)
}

async fn ask(check: &HealthCheck, reach: &Reach) -> bool {
    match (&check.probe, reach) {
        (Probe::Exec { args }, Reach::Inside { program, workload }) => {
            let seconds = whole_seconds(check.timeout);
            let status = Command::new(program)
                .arg("exec")
                .arg(format!("--timeout={seconds}"))
                .arg(workload)
                .arg("--")
                .args(args)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .env_remove("NOTIFY_SOCKET")
                .kill_on_drop(true)
                .status()
                .await;
            status.is_ok_and(|status| status.success())
        }
        (Probe::Tcp { .. }, Reach::Address(address)) => TcpStream::connect(address).await.is_ok(),
        (Probe::Http { path, .. }, Reach::Address(address)) => {
            http_status(*address, path).await.is_some_and(|status| (200..400).contains(&status))
        }
        // A component has no inside to run a program in: such a check never passes, and the model refuses it.
        (Probe::Exec { .. }, Reach::Address(_))
        | (Probe::Tcp { .. } | Probe::Http { .. }, Reach::Inside { .. }) => false,
    }
}

/// The status of `GET path`: one request on a connection of its own needs no HTTP library.
async fn http_status(address: SocketAddr, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: cairnd\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    let mut buffer = [0; 256];
    while !answer.contains(&b'\n') && answer.len() < MAX_ANSWER_BYTES {
        match stream.read(&mut buffer).await.ok()? {
            0 => break,
            n => answer.extend_from_slice(&buffer[..n]),
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let mut words = text.lines().next()?.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn check(start_period: u64, retries: u32) -> HealthCheck {
        HealthCheck {
            probe: Probe::Tcp { port: 1 },
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            retries,
            start_period: Duration::from_secs(start_period),
        }
    }

    fn after(check: &HealthCheck, probes: &[(u64, bool)]) -> Health {
        let mut course = Course::new(Health::Starting);
        for (seconds, passed) in probes {
            course.probed(check, Duration::from_secs(*seconds), *passed);
        }
        course.health
    }

    #[test]
    fn the_course_of_a_check() {
        for (case, check, probes, expected) in [
            ("a pass is enough", check(0, 3), vec![(0, true)], Health::Healthy),
            (
                "eager failures do not count twice",
                check(0, 2),
                vec![(10, false), (11, false)],
                Health::Starting,
            ),
            ("failures at the interval do", check(0, 2), vec![(10, false), (20, false)], Health::Unhealthy),
            ("not within the start period", check(60, 1), vec![(10, false), (50, false)], Health::Starting),
            ("after it they do", check(60, 1), vec![(70, false)], Health::Unhealthy),
            (
                "a pass starts the count again",
                check(0, 2),
                vec![(0, true), (10, false), (20, true), (30, false)],
                Health::Healthy,
            ),
            ("it recovers", check(0, 1), vec![(10, false), (20, true)], Health::Healthy),
        ] {
            assert_eq!(after(&check, &probes), expected, "{case}");
        }
    }

    #[test]
    fn the_runtime_ends_a_hanging_program_before_it_is_dropped_itself() {
        let inside = Reach::Inside { program: "/x".into(), workload: "/w".into() };
        let address = Reach::Address(([127, 0, 0, 1], 1).into());
        for (ms, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (2500, 3)] {
            let check = HealthCheck { timeout: Duration::from_millis(ms), ..check(0, 1) };
            assert_eq!(whole_seconds(check.timeout), seconds, "{ms} ms");
            assert_eq!(patience(&check, &inside), Duration::from_secs(seconds) + INSIDE_GRACE);
            assert_eq!(patience(&check, &address), check.timeout);
        }
    }

    async fn serve(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 512];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(answer).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn reads_a_status_and_nothing_else() {
        for (answer, expected) in [
            (&b"HTTP/1.1 200 OK\r\n\r\nhello"[..], Some(200)),
            (b"HTTP/1.0 503 no\r\n\r\n", Some(503)),
            (b"SSH-2.0-x\r\n", None),
            (b"", None),
        ] {
            assert_eq!(http_status(serve(answer).await, "/").await, expected);
        }
        let endless: &'static [u8] = Box::leak(vec![b'x'; 1 << 20].into_boxed_slice());
        assert_eq!(http_status(serve(endless).await, "/").await, None, "bounded");
    }

    #[tokio::test]
    async fn tells_the_verdict_with_the_run_that_it_is_about() {
        let address = serve(b"HTTP/1.1 204 ok\r\n\r\n").await;
        let mut check = check(0, 1);
        check.probe = Probe::Http { port: address.port(), path: "/".into() };
        let (sender, mut verdicts) = mpsc::channel(1);
        let about = Verdict { unit: "u".into(), run: 7, health: Health::Starting };
        let task = tokio::spawn(watch(about, check, Reach::Address(address), sender));
        let verdict = timeout(Duration::from_secs(10), verdicts.recv()).await.unwrap().unwrap();
        assert_eq!(verdict, Verdict { unit: "u".into(), run: 7, health: Health::Healthy });
        task.abort();
    }
}
