//! Labels, metric families, the recorder and the access log.
