//! wsgate: a WebSocket-aware, TLS-terminating reverse proxy.
//!
//! The crate is a program first; what is public here is what its tests, fuzz targets and benches need.
//! `ARCHITECTURE.md` tells how the rooms fit together. A module imports only from layers below its own:
//!
//! | layer | modules |
//! |---|---|
//! | L0, pure | [`proto`], [`route`] |
//! | L1 | [`config`], [`ending`] |
//! | L2 | [`buffered`], [`tls`], [`upstream`], [`tunnel`], [`exchange`], [`auth`], [`lifecycle`], [`telemetry`] |
//! | L3 | [`connection`] |
//! | L4 | [`server`], [`admin`], [`demo`] |

pub mod admin;
pub mod auth;
pub mod buffered;
pub mod config;
pub mod connection;
pub mod demo;
pub mod ending;
pub mod exchange;
pub mod lifecycle;
pub mod proto;
pub mod route;
pub mod server;
pub mod telemetry;
pub mod tls;
pub mod tunnel;
pub mod upstream;
