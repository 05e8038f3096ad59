//! libFuzzer entry of the target `wal_recovery`.
#![no_main]

coracle_fuzz_libfuzzer::entry!("wal_recovery");
