//! The task on folders.
