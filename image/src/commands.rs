//! Commands that say more than that they are done: what was typed, and what a person reads.

pub(crate) mod assemble;
pub(crate) mod flash;
pub(crate) mod release;
