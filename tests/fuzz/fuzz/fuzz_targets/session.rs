//! libFuzzer entry of the target `session`.
#![no_main]

coracle_fuzz_libfuzzer::entry!("session");
