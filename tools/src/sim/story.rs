//! What the product logs while a story is told becomes part of the story.

use std::cell::RefCell;
use std::io;

use tracing_subscriber::fmt::MakeWriter;

use super::world::World;

thread_local! {
    /// Where the lines of this thread go.
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Runs `work`, and tells what it logs as part of the world's story.
pub fn with_logs<T>(world: &World, work: impl FnOnce() -> T) -> T {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(Lines)
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .with_max_level(tracing::Level::DEBUG)
        .finish();
    WORLD.set(Some(world.clone()));
    let result = tracing::subscriber::with_default(subscriber, work);
    WORLD.set(None);
    result
}

/// Makes one [`Line`] for each event.
struct Lines;

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(Vec::new())
    }
}

/// Collects the text of one event, and tells it when it is complete.
struct Line(Vec<u8>);

impl io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.0);
        WORLD.with_borrow(|world| {
            if let Some(world) = world {
                world.story(|| format!("{}{}", world.speaker(), text.trim()));
            }
        });
    }
}
