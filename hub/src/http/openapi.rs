//! The OpenAPI 3.1 document, made from the table of routes and the model's schemas.

use cairn_model::api::{ApiError, Role};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{operator_routes, route::Route};

/// The document.
pub(crate) fn openapi() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| s.definitions_path = "/components/schemas".into());
    let mut generator = settings.into_generator();
    let error = generator.subschema_for::<ApiError>();
    let mut paths: Map<String, Value> = Map::new();
    for route in operator_routes() {
        let operation = operation(&route, &mut generator, &error);
        let path = paths.entry(format!("/api/v1{}", route.path)).or_insert_with(|| json!({}));
        path[route.method.as_str().to_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Cairn hub",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The operators' API. Nodes use /node/v1 and /tuf, OCI clients /v2.",
            "license": {"name": "Apache-2.0 OR MIT"},
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    })
}

fn operation(route: &Route, generator: &mut schemars::SchemaGenerator, error: &schemars::Schema) -> Value {
    let role = match route.role {
        Role::Viewer => "viewer",
        Role::Operator => "operator",
        Role::Admin => "admin",
    };
    let json_of = |schema: Value| json!({"application/json": {"schema": schema}});
    let mut responses = Map::new();
    match route.answer {
        Some(schema) => {
            let content = json_of(json!(schema(generator)));
            responses.insert("200".to_owned(), json!({"description": "Done.", "content": content}));
        }
        None => {
            responses.insert("204".to_owned(), json!({"description": "Done."}));
        }
    }
    let content = json_of(json!(error));
    responses.insert("default".to_owned(), json!({"description": "What went wrong.", "content": content}));
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.summary,
        "description": format!("Needs role {role}."),
        "parameters": parameters(route),
        "responses": responses,
    });
    if let Some(schema) = route.body {
        operation["requestBody"] = json!({"required": true, "content": json_of(json!(schema(generator)))});
    }
    operation
}

fn operation_id(route: &Route) -> String {
    let path = route.path.replace(['{', '}'], "").replace(['/', '-'], "_");
    format!("{}{path}", route.method.as_str().to_lowercase())
}

fn parameters(route: &Route) -> Vec<Value> {
    let in_path = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut list: Vec<Value> = in_path
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    if let Some(name) = route.query {
        list.push(json!({"name": name, "in": "query", "required": false, "schema": {"type": "string"}}));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_resolves_and_every_operation_is_named_once() {
        let document = openapi();
        let text = document.to_string();
        for part in text.split("\"$ref\":\"").skip(1) {
            let target = part.split('"').next().unwrap();
            let pointer = target.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{target}");
        }
        let mut ids: Vec<_> = operator_routes().iter().map(operation_id).collect();
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
}
