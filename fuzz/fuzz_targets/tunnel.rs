#![no_main]

use libfuzzer_sys::fuzz_target;
use wsgate::tunnel::laws;

fuzz_target!(|input: &[u8]| {
    laws::play(input);
});
