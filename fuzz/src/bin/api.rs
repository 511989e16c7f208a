#![no_main]

#[path = "../../../gateway/tests/checks/mod.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::api(data));
