//! The bundle on a stick (`cairn_model::media`): what to write (`plan`), writing it (`stick`, `write`, `fetch`, `layout`),
//! looking at it (`blobs`, `verify`, `outbox`), and where it is (`place`, `device`, `mount`). What is on a stick may be
//! anybody's work: no link on it is followed, and everything is bounded before it is read.

pub(crate) mod blobs;
pub(crate) mod device;
pub(crate) mod fetch;
pub(crate) mod layout;
pub(crate) mod metadata;
pub(crate) mod mount;
pub(crate) mod outbox;
pub(crate) mod place;
pub(crate) mod plan;
pub(crate) mod stick;
pub(crate) mod verify;
pub(crate) mod write;
