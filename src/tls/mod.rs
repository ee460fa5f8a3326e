//! TLS: the local CA and leaves for development.

pub mod development;
