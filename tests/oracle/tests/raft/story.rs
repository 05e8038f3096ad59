//! What happened, step by step, for whoever has to understand a difference.

use coracle_engine::NodeId;

use crate::pair::terms;
use crate::theirs::View;

/// The lines of one run; empty unless asked for.
#[derive(Debug, Default)]
pub struct Story {
    lines: Option<Vec<String>>,
}

impl Story {
    /// A story that is told.
    pub fn told() -> Self {
        Self { lines: Some(Vec::new()) }
    }

    pub fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(line());
        }
    }

    pub fn state(&mut self, id: NodeId, view: &View) {
        self.tell(|| {
            let View { role, term, vote, commit, durable, matched, .. } = view;
            let (vote, log) = (vote.map_or(0, |id| id.0), terms(&view.log));
            format!(
                "    {id} is {role:?} term {term} vote {vote} log {log:?} commit {commit} \
                 durable {durable} matched {matched:?}"
            )
        });
    }

    pub fn text(&self) -> String {
        self.lines.as_deref().unwrap_or_default().join("\n")
    }
}
