//! Carries out what the planner decided: units, images, networks, volumes. Decides nothing.

pub mod images;
pub mod jobs;
pub mod network;
pub mod processes;
pub mod supervisor;
pub mod trash;
pub mod units;
pub mod volumes;
pub mod workload;
