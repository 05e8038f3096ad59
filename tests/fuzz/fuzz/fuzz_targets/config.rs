//! libFuzzer entry of the target `config`.
#![no_main]

coracle_fuzz_libfuzzer::entry!("config");
