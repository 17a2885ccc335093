//! Integration tests of cairn-image.
