#![no_main]

use libfuzzer_sys::fuzz_target;
use wsgate::config::laws;

fuzz_target!(|text: &str| {
    laws::read(text);
});
