//! libFuzzer entry of the target `resp`.
#![no_main]

coracle_fuzz_libfuzzer::entry!("resp");
