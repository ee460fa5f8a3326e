//! The clients of the gates.

use crate::Fallible;

/// Puts one scenario's load on a gate. The arguments are those after the role.
pub(crate) fn run(_arguments: impl Iterator<Item = String>) -> Fallible<()> {
    Err("there is no client".into())
}
