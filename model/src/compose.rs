//! The Compose file: read strictly, kept as canonical JSON (Compose Specification; design section 3).
