//! The life of the proxy process.

use wsgate::config::{ListenAddress, Loaded};

use super::Failure;

/// Runs the proxy to its end. `announce` gets the addresses when they are bound.
pub(super) fn serve(loaded: Loaded, announce: impl FnOnce(&[ListenAddress])) -> Result<(), Failure> {
    drop((loaded, announce));
    Err(Failure::runtime("this build has no server"))
}
