//! libFuzzer entry of the target `snapshot`.
#![no_main]

coracle_fuzz_libfuzzer::entry!("snapshot");
