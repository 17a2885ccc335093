//! Patches between payloads of every kind, wrong bases, and garbage.
