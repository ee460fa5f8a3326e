//! What a route changes in heads.

use std::fmt;

use super::{
    alike, is_handshake, is_hop_by_hop,
    template::{Template, Values},
};
use crate::proto::head::{Headers, InvalidHeader};

/// A route's edits of one kind of head. A name that [`may_edit`] refuses is left alone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Name and value of headers that replace what is there.
    pub set: Vec<(String, Template)>,
    /// Names of headers that are taken out.
    pub remove: Vec<String>,
}

impl HeaderEdits {
    /// The names to be taken out.
    pub(super) fn removed(&self) -> impl Iterator<Item = &str> {
        self.remove.iter().map(String::as_str).filter(|name| may_edit(name))
    }

    fn set(&self) -> impl Iterator<Item = (&str, &Template)> {
        let pairs = self.set.iter().map(|(name, value)| (name.as_str(), value));
        pairs.filter(|(name, _)| may_edit(name))
    }

    /// Whether an edit decides about this name or one that a backend takes for it.
    pub(super) fn touch(&self, name: &[u8]) -> bool {
        let set = self.set.iter().map(|(name, _)| name);
        self.remove.iter().chain(set).any(|edited| alike(edited, name)) && is_editable(name)
    }

    /// Those that set what depends on the request: they tell of the client, and are no credentials of the backend's.
    #[must_use]
    pub fn about_request(&self) -> Self {
        let set = self.set.iter().filter(|(_, value)| value.has_placeholders());
        Self { set: set.cloned().collect(), remove: Vec::new() }
    }

    /// Makes the edits. A header whose placeholders have no value for this request is taken out, so that what a peer wrote
    /// under its name does not pass for it.
    pub fn apply(&self, headers: &mut Headers, values: &Values<'_>) -> Result<(), InvalidHeader> {
        for name in self.removed() {
            headers.remove(name);
        }
        for (name, value) in self.set() {
            match value.fill(values) {
                Some(text) => headers.set(name, text.as_bytes())?,
                None => drop(headers.remove(name)),
            }
        }
        Ok(())
    }
}

impl fmt::Debug for HeaderEdits {
    /// Names alone: what is set is often a credential of the backend's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set: Vec<_> = self.set.iter().map(|(name, _)| name).collect();
        f.debug_struct("HeaderEdits").field("set", &set).field("remove", &self.remove).finish()
    }
}

/// Whether a route may set or remove this header: not what frames, routes or upgrades a message, which wsgate
/// writes itself (Host has its own setting), nor what the opening handshake is judged by (W13).
pub fn may_edit(name: &str) -> bool {
    is_editable(name.as_bytes())
}

fn is_editable(name: &[u8]) -> bool {
    !is_hop_by_hop(name) && !alike("host", name) && !alike("content-length", name) && !is_handshake(name)
}
