//! Writes the generated inputs of all targets anew: `cargo run -p coracle-fuzz --bin seeds`.

use std::io;

use coracle_fuzz::{TARGETS, seeds};

fn main() -> io::Result<()> {
    for target in TARGETS {
        println!("{}: {} seeds", target.name, seeds::write(target)?);
    }
    Ok(())
}
