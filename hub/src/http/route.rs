//! One row of the table of routes: what it does, who may, what goes in and out.

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    handler::Handler,
    http::Method,
    middleware::{Next, from_fn_with_state},
    routing::{MethodFilter, MethodRouter, on},
};
use cairn_model::api::Role;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::auth;
use crate::service::SharedHub;

/// Makes the schema of a body, and notes what it refers to.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) role: Role,
    pub(super) summary: &'static str,
    pub(super) query: Option<&'static str>,
    pub(super) body: Option<SchemaOf>,
    /// 204 where absent.
    pub(super) answer: Option<SchemaOf>,
    limit: Option<usize>,
    handler: MethodRouter<SharedHub>,
}

macro_rules! method {
    ($name:ident, $method:ident) => {
        pub(super) fn $name<H, T>(path: &'static str, role: Role, summary: &'static str, handler: H) -> Route
        where
            H: Handler<T, SharedHub>,
            T: 'static,
        {
            Route {
                method: Method::$method,
                path,
                role,
                summary,
                query: None,
                body: None,
                answer: None,
                limit: None,
                handler: on(MethodFilter::$method, handler),
            }
        }
    };
}

method!(get, GET);
method!(post, POST);
method!(put, PUT);
method!(patch, PATCH);
method!(delete, DELETE);

impl Route {
    pub(super) fn query(mut self, name: &'static str) -> Self {
        self.query = Some(name);
        self
    }

    pub(super) fn takes<T: JsonSchema>(mut self) -> Self {
        self.body = Some(|generator| generator.subschema_for::<T>());
        self
    }

    pub(super) fn answers<T: JsonSchema>(mut self) -> Self {
        self.answer = Some(|generator| generator.subschema_for::<T>());
        self
    }

    pub(super) fn body_limit(mut self, bytes: usize) -> Self {
        self.limit = Some(bytes);
        self
    }

    /// Adds it to `router`, behind its role.
    pub(super) fn add_to(self, router: Router<SharedHub>, hub: &SharedHub) -> Router<SharedHub> {
        let role = self.role;
        let check = move |state: axum::extract::State<SharedHub>, request: Request, next: Next| {
            auth::require(state, role, request, next)
        };
        let mut handler = self.handler;
        if let Some(bytes) = self.limit {
            handler = handler.layer(DefaultBodyLimit::max(bytes));
        }
        router.route(self.path, handler.layer(from_fn_with_state(SharedHub::clone(hub), check)))
    }
}
