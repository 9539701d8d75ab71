//! Objects are validated before the API server stores them: `check` is what is wrong with one, `review` question and answer,
//! `serve` the webhook, and `bundle` keeps the API server's trust in it.

pub mod check;
pub mod review;
pub mod serve;
pub mod bundle;
