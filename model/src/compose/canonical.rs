//! stub
pub(super) fn write(_app: &super::App) -> Vec<u8> {
    Vec::new()
}
