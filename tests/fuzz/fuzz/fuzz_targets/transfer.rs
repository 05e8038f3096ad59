//! libFuzzer entry of the target `transfer`.
#![no_main]

coracle_fuzz_libfuzzer::entry!("transfer");
