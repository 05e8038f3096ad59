//! libFuzzer entry of the target `wal_records`.
#![no_main]

coracle_fuzz_libfuzzer::entry!("wal_records");
