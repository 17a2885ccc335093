//! Slots, boot control and the disk layout; must never know HTTP or TUF.
