#![no_main]

use libfuzzer_sys::fuzz_target;
use wsgate::proto::laws;

fuzz_target!(|input: &[u8]| laws::proxy_header(input));
