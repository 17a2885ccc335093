//! The JSON Schemas in `docs/schema/` are those of the types.

use cairn_model::{DesiredState, Facts, Release, Report, enroll::EnrollRequest};
use schemars::{JsonSchema, schema_for};

use crate::check_golden;

fn check<T: JsonSchema>(name: &str) {
    let mut schema = schema_for!(T);
    // Sorted whatever features serde_json is built with.
    schema.ensure_object().sort_keys();
    check_golden(&format!("docs/schema/{name}.v1.json"), schema.as_value());
}

#[test]
fn schemas_are_those_of_the_types() {
    check::<DesiredState>("desired-state");
    check::<Release>("release");
    check::<Report>("report");
    check::<Facts>("facts");
    check::<EnrollRequest>("enroll-request");
}
