//! What is counted, for `/metrics`.

/// Everything that is counted over the whole process. Shared by all workers; nothing in it is touched on the path of bytes.
#[derive(Debug, Default)]
pub struct Metrics {}
