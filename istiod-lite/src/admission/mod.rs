//! Objects are validated before the API server stores them: `review` is question and answer, `serve` the webhook, and
//! `bundle` keeps the API server's trust in it.

pub mod review;
pub mod serve;
pub mod bundle;
