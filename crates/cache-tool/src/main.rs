//! cache-tool
fn main() {}
