//! Checks the layout of the repository in the current directory: `cargo run -p coracle-tools --bin layout`.

use std::path::Path;
use std::process::ExitCode;

use coracle_tools::layout;

fn main() -> ExitCode {
    match layout::check(Path::new(".")) {
        Ok(findings) if findings.is_empty() => {
            println!("the layout keeps all rules");
            ExitCode::SUCCESS
        }
        Ok(findings) => {
            for finding in &findings {
                eprintln!("{finding}");
            }
            eprintln!("{} findings; the rules are told in docs/architecture.md", findings.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
