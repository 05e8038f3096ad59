//! libFuzzer entry of the target `commands`.
#![no_main]

coracle_fuzz_libfuzzer::entry!("commands");
