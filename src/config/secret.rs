//! Values that nobody is shown.

use std::fmt;

/// A token. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Takes what the file says.
    pub fn new(value: impl Into<Box<str>>) -> Self {
        Self(value.into())
    }

    /// The value, for who sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether `told` is the value. How long this takes says nothing but the length.
    pub fn is(&self, told: &[u8]) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(self.0.as_bytes(), told).is_ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s7_a_secret_is_compared_and_never_shown() {
        let secret = Secret::new("hunter2");
        assert!(secret.is(b"hunter2") && !secret.is(b"hunter") && !secret.is(b""));
        assert_eq!(format!("{:?}", Some(&secret)), "Some(***)");
    }
}
