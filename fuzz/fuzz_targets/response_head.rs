#![no_main]

use libfuzzer_sys::fuzz_target;
use wsgate::proto::{head::HeadLimits, laws};

fuzz_target!(|input: &[u8]| {
    laws::response_head(input, &HeadLimits { bytes: 1024, headers: 16, target: 256 });
});
