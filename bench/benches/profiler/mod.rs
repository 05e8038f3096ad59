//! Flame graphs of criterion benches: `cargo bench --bench NAME -- --profile-time SECONDS` writes
//! `flamegraph.svg` into the benchmark's directory under `target/criterion/`.

use std::fs::File;
use std::path::Path;

use criterion::Criterion;
use criterion::profiler::Profiler;
use pprof::ProfilerGuard;

/// Samples per second; prime, so that they do not fall in step with a timer.
const SAMPLES_PER_SECOND: i32 = 997;

/// Samples the process while criterion runs one benchmark.
#[derive(Default)]
struct FlameGraph {
    running: Option<ProfilerGuard<'static>>,
}

impl Profiler for FlameGraph {
    fn start_profiling(&mut self, benchmark_id: &str, _benchmark_dir: &Path) {
        match ProfilerGuard::new(SAMPLES_PER_SECOND) {
            Ok(guard) => self.running = Some(guard),
            Err(error) => eprintln!("no flame graph of {benchmark_id}: {error}"),
        }
    }

    fn stop_profiling(&mut self, benchmark_id: &str, benchmark_dir: &Path) {
        let Some(guard) = self.running.take() else { return };
        match write(&guard, benchmark_dir) {
            Ok(path) => println!("flame graph of {benchmark_id}: {path}"),
            Err(error) => eprintln!("no flame graph of {benchmark_id}: {error}"),
        }
    }
}

fn write(guard: &ProfilerGuard<'_>, dir: &Path) -> Result<String, Box<dyn std::error::Error>> {
    std::fs::create_dir_all(dir)?;
    let path = dir.join("flamegraph.svg");
    guard.report().build()?.flamegraph(File::create(&path)?)?;
    Ok(path.display().to_string())
}

/// Criterion as all benches here use it: with flame graphs.
pub fn criterion() -> Criterion {
    Criterion::default().with_profiler(FlameGraph::default())
}
