//! The fuzz targets: one function for each place where Coracle reads bytes that it did not just write.
//!
//! A [`Target`] is a function on bytes that must not panic, whatever they are. Beyond that it checks what
//! must hold for all inputs: what decodes can be encoded again and decodes to the same, arrival in pieces
//! changes nothing, what is refused leaves no trace. `tests/stable.rs` runs every target on its seeds and on
//! mutations of them with the compiler of the rest; `fuzz/` runs the same functions under libFuzzer.
//!
//! A new target is a file in `targets/`, a line in [`TARGETS`], and an entry and a `[[bin]]` in `fuzz/`; a
//! test says what is missing. `docs/testing.md` tells how to run and reproduce.

pub mod mutate;
pub mod seeds;
mod targets;

pub use targets::TARGETS;

/// A named input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// What it is; the name of its file without the extension.
    pub name: String,
    /// The input.
    pub bytes: Vec<u8>,
}

impl Seed {
    /// A seed called `name`.
    pub fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), bytes: bytes.into() }
    }
}

/// Most memory that a target may hold while it runs on an input: a length in the input that is believed
/// before it is checked breaks this bound.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Bytes for any input.
    pub constant: usize,
    /// Bytes for each byte of the input.
    pub factor: usize,
    /// Where the two come from.
    pub reason: &'static str,
}

/// One place where foreign bytes are read.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: of the libFuzzer binary and of the directory of its corpus.
    pub name: &'static str,
    /// Reads the bytes and checks what must hold. A panic is a finding.
    pub run: fn(&[u8]),
    /// Makes the checksums in an input right, as far as it has the form of one. Without it a mutated input
    /// seldom comes further than the first checksum.
    pub mend: Option<fn(&mut [u8])>,
    /// Valid inputs of each kind, for a start.
    pub seeds: fn() -> Vec<Seed>,
    /// Bound of its memory.
    pub memory: Memory,
}

/// The target called `name`.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
