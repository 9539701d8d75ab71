//! Certificates: asking, holding, renewing, proving and signing.
