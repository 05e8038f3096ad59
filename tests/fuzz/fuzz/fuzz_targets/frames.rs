//! libFuzzer entry of the target `frames`.
#![no_main]

coracle_fuzz_libfuzzer::entry!("frames");
