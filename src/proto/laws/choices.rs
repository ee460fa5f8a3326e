//! Structured inputs out of bytes.

/// Decisions that are read off bytes: a fuzzer changes them one by one, and a property test draws them. When the bytes are
/// used up, every decision is the first of its kind, so that whatever is built out of them comes to an end.
#[derive(Debug, Clone)]
pub struct Choices<'a> {
    left: &'a [u8],
}

impl<'a> Choices<'a> {
    /// The decisions in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    /// All bytes are used up.
    pub fn is_over(&self) -> bool {
        self.left.is_empty()
    }

    /// The next byte; 0 when there is none.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    /// Up to `count` bytes as they come.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, left) = self.left.split_at(count.min(self.left.len()));
        self.left = left;
        taken
    }

    /// A number below `bound`, which is at most 65,536 and not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let number = if bound <= 256 {
            usize::from(self.byte())
        } else {
            usize::from(u16::from_be_bytes([self.byte(), self.byte()]))
        };
        number % bound
    }

    /// True once in `times`, and false when nothing is left.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.below(among.len())]
    }
}

/// Changes `bytes` in a few places, each in one of the ways that break a text: something more, something else, or less.
pub fn mutate(choices: &mut Choices<'_>, bytes: &mut Vec<u8>, special: &[&[u8]]) {
    for _ in 0..choices.below(4) {
        let at = choices.below(bytes.len().clamp(1, 65_535)).min(bytes.len());
        let end = (at + choices.below(4)).min(bytes.len());
        let put = if choices.once_in(2) { choices.bytes(2) } else { choices.pick(special) };
        bytes.splice(at..end, put.iter().copied());
    }
}
