//! libFuzzer entry of the target `hello`.
#![no_main]

coracle_fuzz_libfuzzer::entry!("hello");
