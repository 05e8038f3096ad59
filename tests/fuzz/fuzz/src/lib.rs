//! What all libFuzzer entries share: the body of a target, and a mutator that mends checksums.

pub use libfuzzer_sys;

use coracle_fuzz::{Target, target};

/// The target called `name`.
///
/// # Panics
/// If there is none.
pub fn named(name: &str) -> &'static Target {
    target(name).expect("a target of coracle-fuzz")
}

/// Mutates as libFuzzer does, then mends the checksums of every other input.
pub fn mutate(target: &Target, data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let size = libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    if let Some(mend) = target.mend
        && seed & 1 == 0
    {
        mend(&mut data[..size]);
    }
    size
}

/// The entry of one target.
#[macro_export]
macro_rules! entry {
    ($name:literal) => {
        use $crate::libfuzzer_sys;
        libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
            $crate::mutate($crate::named($name), data, size, max_size, seed)
        });
        libfuzzer_sys::fuzz_target!(|data: &[u8]| ($crate::named($name).run)(data));
    };
}
