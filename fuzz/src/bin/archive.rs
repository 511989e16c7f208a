#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| resource_registry::archive::check_archive(data));
