#![no_main]

#[path = "../../../starlane-core/tests/checks/mod.rs"]
#[expect(dead_code, reason = "each target is one of the checks")]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::wire(data));
