#![no_main]

use libfuzzer_sys::fuzz_target;
use wsgate::proto::head::{HeadLimits, RequestHead};
use wsgate::route::{NormalPath, Target, strip_prefix};

fuzz_target!(|input: &[u8]| {
    let Ok(Some((head, _))) = RequestHead::parse(input, &HeadLimits::default()) else { return };
    let Ok(target) = Target::parse(&head) else { return };
    let form = target.normal_path();
    assert_eq!(NormalPath::parse(form.as_str()), Ok(form.clone()), "the form of a form is itself");
    assert!(head.target.ends_with(target.origin_form().trim_start_matches('/')));
    if target.raw_path() != "*" {
        // With its own path taken off, nothing but the query remains.
        let rest = strip_prefix(target.origin_form(), target.raw_path()).expect("a path begins with itself");
        assert_eq!(rest[1..].strip_prefix('?'), target.query());
    }
});
