#![no_main]

use libfuzzer_sys::fuzz_target;
use wsgate::{proto::laws::requests, route::Target};

fuzz_target!(|input: &[u8]| {
    requests::sequence(input, |head| Some(Target::parse(head).ok()?.origin_form().to_owned()));
});
