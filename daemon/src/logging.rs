//! Where the daemon's own words go: to the journal with its fields where the unit's output is connected to it, else to
//! standard error.

use std::fmt::Write as _;

use systemd_journal_logger::{JournalLog, connected_to_journal};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer, filter::Targets, layer::Context, layer::SubscriberExt, util::SubscriberInitExt,
};

/// Starts logging with `filter`: a level, or `target=level` pairs with commas between; one that does not parse means
/// `info`. Not `EnvFilter`: its filters on fields, which nobody needs here, bring a regex engine into the daemon.
pub fn start(filter: &str) {
    let filter = filter.parse::<Targets>().unwrap_or_else(|_| Targets::new().with_default(Level::INFO));
    let registry = tracing_subscriber::registry().with(filter);
    let journal = if connected_to_journal() { JournalLog::new().ok() } else { None };
    // Fails only where logging was started before: then that goes on.
    let _ = match journal {
        Some(journal) => {
            let journal = journal.with_syslog_identifier("cairnd".to_owned());
            registry.with(JournalLayer { journal }).try_init()
        }
        None => registry.with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr)).try_init(),
    };
}

struct JournalLayer {
    journal: JournalLog,
}

/// An event as one line: its message, then its fields.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            let _ = write!(self.fields, " {}={value}", field.name());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}

impl<S: Subscriber> Layer<S> for JournalLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let level = match *event.metadata().level() {
            Level::ERROR => log::Level::Error,
            Level::WARN => log::Level::Warn,
            Level::INFO => log::Level::Info,
            Level::DEBUG => log::Level::Debug,
            Level::TRACE => log::Level::Trace,
        };
        // A journal that does not take the line has nobody to be told.
        let _ = self.journal.journal_send(
            &log::Record::builder()
                .level(level)
                .target(event.metadata().target())
                .args(format_args!("{}{}", line.message, line.fields))
                .build(),
        );
    }
}
