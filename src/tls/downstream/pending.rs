//! What waits to be taken.

use rustls::Error;

use super::session::Misfit;

/// Bytes on their way that hold no memory when there are none.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) bytes: Vec<u8>,
    /// How much of `bytes` is gone.
    gone: usize,
}

impl Pending {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.gone..]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Drops all but the first `len` bytes that are left.
    pub(super) fn truncate(&mut self, len: usize) {
        self.bytes.truncate(self.gone + len);
    }

    pub(super) fn extend(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.gone += count;
        if self.gone >= self.bytes.len() {
            *self = Self::default();
        }
    }

    /// Adds what `write` puts into the room that it is given, which grows as it asks.
    pub(super) fn append<E: Into<Misfit>>(
        &mut self,
        mut write: impl FnMut(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), Error> {
        let end = self.bytes.len();
        loop {
            match write(&mut self.bytes[end..]).map_err(Into::into) {
                Ok(count) => {
                    self.bytes.truncate(end + count);
                    return Ok(());
                }
                Err(Misfit::Short(size)) => self.bytes.resize(end + size, 0),
                Err(Misfit::Failed(error)) => return Err(error),
            }
        }
    }
}
