//! The `levelfold` command.
fn main() {}
