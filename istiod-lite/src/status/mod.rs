//! What is to be told about objects: `plan` makes it. With an API server it goes into their `status` (`shown` is what they
//! show of it, `due` what is to be written, `objects` writes it) and into events; a folder is its user's, so there it goes
//! into a file of our own (`apply`) and a debug page.

pub mod plan;
pub mod apply;
pub mod shown;
pub mod due;
pub mod objects;
