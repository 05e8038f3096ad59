//! libFuzzer entry of the target `manifest`.
#![no_main]

coracle_fuzz_libfuzzer::entry!("manifest");
