//! libFuzzer entry of the target `timers`.
#![no_main]

coracle_fuzz_libfuzzer::entry!("timers");
