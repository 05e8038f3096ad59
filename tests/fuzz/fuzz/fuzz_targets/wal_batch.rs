//! libFuzzer entry of the target `wal_batch`.
#![no_main]

coracle_fuzz_libfuzzer::entry!("wal_batch");
