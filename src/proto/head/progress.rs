//! When bytes that trickle in are worth another look.

use memchr::memmem;

use super::HeadLimits;

/// Tells when a buffer that grows is worth another look for a head, so that one that comes a byte at a time costs no more
/// than twice what it costs at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadProgress {
    /// Bytes that have been searched for the end of a head.
    searched: usize,
    /// Not worth it below this, unless the end is there.
    next: usize,
}

impl HeadProgress {
    /// Below this many bytes every look is cheap, and finds garbage early.
    const EAGER: usize = 4096;

    /// Whether `buffer`, which begins as it did at the last call, should be parsed now. Past the bound of `limits` it always
    /// should.
    pub fn is_worth_parsing(&mut self, buffer: &[u8], limits: &HeadLimits) -> bool {
        let searched = self.searched.min(buffer.len());
        self.searched = buffer.len().saturating_sub(3);
        let has_end = || memmem::find(look(&buffer[searched..]), b"\r\n\r\n").is_some();
        let is_worth = !buffer.is_empty() && (buffer.len() >= self.next.min(limits.bytes) || has_end());
        if is_worth {
            self.next = if buffer.len() < Self::EAGER { 0 } else { buffer.len() * 2 };
        }
        is_worth
    }
}

/// Passes bytes on that are looked at now, all of them perhaps, so that tests can count the work.
pub(super) fn look(bytes: &[u8]) -> &[u8] {
    #[cfg(test)]
    work::LOOKED.set(work::LOOKED.get() + bytes.len());
    bytes
}

/// Counts the work that heads are.
#[cfg(test)]
pub(crate) mod work {
    use std::cell::Cell;

    use super::HeadProgress;

    thread_local! {
        pub(super) static LOOKED: Cell<usize> = const { Cell::new(0) };
    }

    /// Bytes that this thread has looked at so far, each as often as it was.
    pub(crate) fn looked() -> usize {
        LOOKED.get()
    }

    /// What a head of so many bytes may cost, however it comes; a look at all of it for each of its bytes is far more.
    pub(crate) const fn bound(length: usize) -> usize {
        HeadProgress::EAGER * HeadProgress::EAGER / 2 + 10 * length
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::head::{HeadError, RequestHead};

    const LIMITS: HeadLimits = HeadLimits { bytes: 40_000, headers: 4096, target: 1024 };

    /// A head of about so many bytes, in many lines or in one.
    fn head(length: usize, line: usize) -> Vec<u8> {
        let line = format!("X: {}\r\n", "a".repeat(line));
        let lines = line.repeat(length / line.len());
        format!("GET / HTTP/1.1\r\n{lines}\r\n").into_bytes()
    }

    /// Parses what has come after each piece, if it is worth it. Returns the result and the bytes that had come by then.
    fn parse_in_pieces(input: &[u8], piece: usize) -> (Result<Option<usize>, HeadError>, usize) {
        let mut progress = HeadProgress::default();
        let ends = (1..).map(|pieces| (pieces * piece).min(input.len()));
        for end in ends {
            let come = &input[..end];
            if progress.is_worth_parsing(come, &LIMITS) {
                match RequestHead::parse(come, &LIMITS) {
                    Ok(None) => {}
                    result => return (result.map(|head| head.map(|(_, length)| length)), end),
                }
            }
            if end == input.len() {
                return (Ok(None), end);
            }
        }
        unreachable!("the pieces reach the end")
    }

    #[test]
    fn s1_a_head_in_small_pieces_costs_no_more_than_a_bounded_multiple_of_its_length() {
        for (line, piece) in [(10, 1), (1000, 1), (10, 7), (30_000, 3)] {
            let head = head(30_000, line);
            let before = work::looked();
            let (result, come) = parse_in_pieces(&head, piece);
            assert_eq!((result, come), (Ok(Some(head.len())), head.len()));
            let looked = work::looked() - before;
            assert!(looked <= work::bound(head.len()), "{looked} for {} in pieces of {piece}", head.len());
        }
    }

    #[test]
    fn s2_a_head_that_never_ends_is_refused_at_the_bound_at_the_same_cost() {
        let mut endless = b"GET / HTTP/1.1\r\nX: ".to_vec();
        endless.resize(2 * LIMITS.bytes, b'a');
        let before = work::looked();
        assert_eq!(parse_in_pieces(&endless, 1), (Err(HeadError::TooLarge), LIMITS.bytes));
        assert!(work::looked() - before <= work::bound(LIMITS.bytes));
    }

    #[test]
    fn a_head_is_found_as_soon_as_it_is_there() {
        for length in [0, 100, 4090, 4100, 9000] {
            let head = head(length, 40);
            let input = [&head, &b"tail".repeat(1000)[..]].concat();
            for piece in [1, 2, 3, 5, 4096] {
                let (result, come) = parse_in_pieces(&input, piece);
                assert_eq!(result, Ok(Some(head.len())));
                assert!(come < head.len() + piece, "{come} for {} in pieces of {piece}", head.len());
            }
        }
    }
}
