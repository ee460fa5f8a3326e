#![no_main]

use libfuzzer_sys::fuzz_target;
use wsgate::config::laws;

fuzz_target!(|input: &[u8]| {
    laws::read_tables(input);
});
