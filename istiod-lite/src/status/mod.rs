//! What is to be told about objects. With an API server this goes into their `status`; a folder is its user's, so it
//! goes into a file of our own and a debug page. `plan` makes it, `apply` writes it.

pub mod plan;
pub mod apply;
