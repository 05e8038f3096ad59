//! libFuzzer entry of the target `kv_payload`.
#![no_main]

coracle_fuzz_libfuzzer::entry!("kv_payload");
