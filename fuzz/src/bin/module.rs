#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mechtron_host::check_module(data));
