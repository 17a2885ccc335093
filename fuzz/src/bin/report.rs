//! The report of a node, which a stolen node may write as it likes: what is read is the same when it is written and
//! read, and progress is never over 100 %.
#![no_main]

use cairn_fuzz::document;
use cairn_model::{Report, report::Record};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(report) = document(data, Report::parse) else { return };
    assert!(report.sequence > 0);
    for record in &report.records {
        if let Record::Status(status) = record
            && let Some(progress) = status.os.as_ref().and_then(|os| os.progress)
        {
            assert!(progress.percent() <= 100);
        }
    }
});
