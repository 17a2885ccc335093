//! What libcontainer says when it fails inside the container's first process: it hands us its outermost error only
//! ("failed to prepare rootfs"), and tells the cause to a log. The first error event of each such process is the cause;
//! those that follow repeat it on the way out.

use std::{
    fmt::{Debug, Write},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// The process that prints its own errors.
static MAIN: AtomicU32 = AtomicU32::new(0);
/// The process that has told its cause.
static SPOKEN: AtomicU32 = AtomicU32::new(0);

/// Prints causes to stderr; spans are of no interest.
struct FirstError;

/// Call it at the start, and after a fork in the process that goes on as the main one.
pub(crate) fn install() {
    MAIN.store(process::id(), Ordering::Relaxed);
    // It fails where it is installed already: then the process id was all that there was to do.
    let _ = tracing::subscriber::set_global_default(FirstError);
}

impl Subscriber for FirstError {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR && metadata.is_event()
    }

    fn event(&self, event: &Event<'_>) {
        let own = process::id();
        if own == MAIN.load(Ordering::Relaxed) || SPOKEN.swap(own, Ordering::Relaxed) == own {
            return;
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        eprintln!("cairn-oci: cause:{}", text.0);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a String can't fail.
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
